package fs_test

import (
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"storefs/fs"
)

// stuckFacts takes as long as somebody likes to say a fact.
type stuckFacts struct {
	fs.Facts
	first *sync.Once
	asked chan struct{} // closed by the first who asks
	hold  chan struct{}
}

func (f stuckFacts) Fact(name, key string) ([]byte, error) {
	f.first.Do(func() { close(f.asked) })
	<-f.hold
	return f.Facts.Fact(name, key)
}

// Whatever holds an answer up, others are given meanwhile, also while requests
// come so thick that one thread reads them all.
func TestStuckAnswerDelaysNothing(t *testing.T) {
	s := newFakeStore(t)
	facts := stuckFacts{s, new(sync.Once), make(chan struct{}), make(chan struct{})}
	dir, server := mount(t, s, func(o *fs.Options) { o.Facts = facts })
	const files = 3000
	n := s.add(name(1, "x"), recipe{make: func(p string) error {
		err := os.Mkdir(p, 0o755)
		for i := 0; i < files && err == nil; i++ {
			err = os.WriteFile(filepath.Join(p, strconv.Itoa(i)), nil, 0o644)
		}
		return err
	}})
	must(t, dir, `ls $S/$1 >/dev/null`, "", n)
	needTool(t, "getfattr")
	before := server.Requests()["lookup"]
	stuck := make(chan error, 1)
	go func() {
		<-facts.asked
		_, err := sh(t, dir, `for i in {1000..2999}; do test -e $S/$1/$i.none && exit 1; done; true`, n)
		close(facts.hold)
		stuck <- err
	}()
	must(t, dir, `for i in {0..999}; do test -e $S/$1/$i.none && exit 1; done
		getfattr --absolute-names --only-values -n user.storefs.state $S/$1 >/dev/null`, "", n)
	if err := <-stuck; err != nil {
		t.Error(err)
	}
	if got := server.Requests()["lookup"] - before; got < files {
		t.Errorf("only %d lookups", got)
	}
}
