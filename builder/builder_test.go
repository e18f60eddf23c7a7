package builder_test

import (
	"os"
	"testing"

	"storefs/builder"
	"storefs/builder/buildertest"
)

func TestMain(m *testing.M) {
	builder.Child()
	os.Exit(m.Run())
}

func local(t *testing.T, o *builder.Options) buildertest.Builder {
	t.Helper()
	l, err := builder.New(*o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestSmoke(t *testing.T) {
	w := buildertest.NewWorld(t, local)
	r := w.Built(w.Job("hello", "env; ls -la / /dev /etc /build $NIX_STORE; id; cat /proc/self/status /proc/mounts; ifconfig -a; uname -a; hostname; echo hello $out > $out", func(j *builder.Job) {
		j.Log = func(l []byte) { t.Logf("%s", l) }
	}))
	t.Logf("%+v", r)
	t.Log(w.Text(r))
}
