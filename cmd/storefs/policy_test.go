package main

import (
	"reflect"
	"testing"

	"storefs/fs"
)

func TestPolicy(t *testing.T) {
	for text, want := range map[string]fs.Rule{
		"command:updatedb=deny":         {Callers: fs.Callers{Commands: []string{"updatedb"}}, Permission: fs.MayNothing},
		"uid:1000=cached-only":          {Callers: fs.Callers{UIDs: []uint32{1000}}, Permission: fs.MayFetch},
		"uid:root=build":                {Callers: fs.Callers{UIDs: []uint32{0}}},
		"cgroup:/a=b/c.slice=deny":      {Callers: fs.Callers{Cgroups: []string{"/a=b/c.slice"}}, Permission: fs.MayNothing},
		"all=cached-only":               {Callers: fs.Callers{Everyone: true}, Permission: fs.MayFetch},
		"command:name:with:colons=deny": {Callers: fs.Callers{Commands: []string{"name:with:colons"}}, Permission: fs.MayNothing},
	} {
		var p policy
		want.Name = text
		if err := p.UnmarshalText([]byte(text)); err != nil || !reflect.DeepEqual(fs.Rule(p), want) {
			t.Errorf("%s: %+v, %v", text, p, err)
		}
	}
	for _, bad := range []string{"", "deny", "command:x", "command:x=", "command:x=maybe", "command=deny", "command:=deny", "gid:1=deny", "uid:no such user=deny", "uid:-1=deny", "everyone=deny"} {
		var p policy
		if err := p.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q: %+v", bad, p)
		}
	}
}

func TestPolicyOrder(t *testing.T) {
	f := policyFlags{Policy: []policy{{Callers: fs.Callers{Commands: []string{"updatedb"}}}}, DenyUID: []uid{7}, StandardPolicies: true}
	rules := f.rules()
	if len(rules) != 3 || rules[0].UIDs[0] != 7 || rules[1].Permission != fs.MayBuild || rules[2].Commands[0] != "updatedb" {
		t.Errorf("%+v", rules)
	}
	if rules := (policyFlags{}).rules(); len(rules) != 0 {
		t.Errorf("%+v", rules)
	}
}
