package fstest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"storefs/store"
)

// What real Nix has instantiated with its own fetchurl.nix is fetched when somebody looks
// at what needs it.
func TestRealNixFetches(t *testing.T) {
	const text = "from the network\n"
	var fetched atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/missing" {
			http.NotFound(w, r)
			return
		}
		fetched.Add(1)
		fmt.Fprint(w, text)
	}))
	defer s.Close()
	l := newLab(t)
	right := store.HashOf(store.SHA256, []byte(text))
	l.write("fetch.nix", fmt.Sprintf(`let
  tools = ./tools;
  fetch = name: sha256: import <nix/fetchurl.nix> { url = "%s/${name}"; inherit sha256; };
in [
  (derivation { name = "user"; system = "x86_64-linux"; builder = "${tools}/bin/sh"; PATH = "${tools}/bin"; args = [ "-euc" "cat $in $in > $out" ]; "in" = fetch "right" %q; })
  (fetch "wrong" %q)
  (fetch "missing" %[2]q)
]
`, s.URL, right.Base32(), store.HashOf(store.SHA256, nil).Base32()))
	drvs := strings.Fields(l.nixScript("nix-instantiate fetch.nix 2>/dev/null; nix-store --export $(nix-store -qR $(nix-instantiate fetch.nix 2>/dev/null)) > exported"))
	if len(drvs) != 3 {
		t.Fatalf("derivations: %v", drvs)
	}
	if r := l.inShell(binary + " import < exported"); r.status != 0 {
		t.Fatalf("import: %s", r.stderr)
	}
	l.serve()
	user := l.ok("query", "outputs", drvs[0])[0]
	if b, err := os.ReadFile(user); err != nil || string(b) != text+text {
		t.Errorf("%q, %v", b, err)
	}
	l.storefs("build", drvs[0])
	if n := fetched.Load(); n != 1 {
		t.Errorf("it was fetched %d times", n)
	}

	r := l.storefs("build", drvs[1])
	hash, kept := l.mismatched(r.stderr)
	if b, err := os.ReadFile(kept); r.status != 102 || hash != right.SRI() || err != nil || string(b) != text {
		t.Errorf("status %d: %s\n%q, %v", r.status, r.stderr, b, err)
	}

	missing := l.ok("query", "outputs", drvs[2])[0]
	if _, err := os.ReadFile(missing); errno(err) != syscall.EIO {
		t.Errorf("%v, want EIO", err)
	}
	why := "builder builtin:fetchurl failed with exit status 1: unable to download '" + s.URL + "/missing': HTTP error 404"
	if text := l.ok("why", missing); !strings.HasSuffix(text[1], why) {
		t.Errorf("why:\n%s", strings.Join(text, "\n"))
	}
	if log := l.ok("log", missing); !slices.Equal(log, []string{"unable to download '" + s.URL + "/missing': HTTP error 404"}) {
		t.Errorf("log:\n%s", strings.Join(log, "\n"))
	}
	if r := l.storefs("build", drvs[2]); r.status != 100 {
		t.Errorf("status %d: %s", r.status, r.stderr)
	}
}

// An expression of our own may ask for the same.
func TestFetchFromStarlark(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) }))
	defer s.Close()
	l := newLab(t)
	file := l.star("a.star", fmt.Sprintf(`
default = derivation(name = "file", builder = "builtin:fetchurl", system = "builtin", hash = %q, hash_mode = "flat", kind = "regular", env = {"url": %q})
`, store.HashOf(store.SHA256, []byte("/file")).SRI(), s.URL+"/file"))
	l.serve()
	out := l.outputs(file)[0]
	if b, err := os.ReadFile(out); err != nil || string(b) != "/file" {
		t.Errorf("%q, %v", b, err)
	}
}
