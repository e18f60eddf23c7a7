package db

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"storefs/store"
)

// An output with its normal form, by so many callers at once who all wait for it,
// with the time of processors and the switches between threads that one takes.
func BenchmarkRegister(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			d, err := Open(filepath.Join(b.TempDir(), "db.bolt"), testDir, Options{Create: true})
			if err != nil {
				b.Fatal(err)
			}
			defer d.Close()
			work := make([]Registration, b.N)
			for i := range work {
				drv := testInfo(b, fmt.Sprint("x", i, ".drv"))
				out := testInfo(b, fmt.Sprint("out", i))
				closure := testInfo(b, fmt.Sprint("x", i, "-s.store"), out.Path)
				work[i] = Registration{
					Infos:     []store.Info{drv, out, closure},
					Successor: &Successor{Expr: drv.Path, Closure: closure.Path},
				}
			}
			var next atomic.Int64
			var all sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			before := usage(b)
			for range callers {
				all.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						if err := d.Register(context.Background(), work[i-1]); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			after := usage(b)
			cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
			b.ReportMetric(float64(cpu)/float64(b.N), "cpu-ns/op")
			b.ReportMetric(float64(after.Nvcsw-before.Nvcsw)/float64(b.N), "switches/op")
			b.ReportMetric(float64(d.file.log.seq)/float64(b.N), "commits/op")
		})
	}
}

func usage(b *testing.B) unix.Rusage {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u
}
