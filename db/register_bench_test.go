package db

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"storefs/store"
)

// An output with its normal form, by so many callers at once who all wait for it.
func BenchmarkRegister(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			d, err := Open(filepath.Join(b.TempDir(), "db.bolt"), testDir, Options{Create: true})
			if err != nil {
				b.Fatal(err)
			}
			defer d.Close()
			var last atomic.Int64
			var all sync.WaitGroup
			for range callers {
				all.Go(func() {
					for i := last.Add(1); i <= int64(b.N); i = last.Add(1) {
						drv := testInfo(b, fmt.Sprint("x", i, ".drv"))
						out := testInfo(b, fmt.Sprint("out", i))
						closure := testInfo(b, fmt.Sprint("x", i, "-s.store"), out.Path)
						err := d.Register(context.Background(), Registration{
							Infos:     []store.Info{drv, out, closure},
							Successor: &Successor{Expr: drv.Path, Closure: closure.Path},
						})
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
		})
	}
}
