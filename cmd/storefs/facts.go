package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"storefs/fs"
	"storefs/normaliser"
	"storefs/state"
	"storefs/store"
)

// Facts of a path, realised or not.
const (
	factState       = "state"        // one of the state… words
	factKind        = "kind"         // what it is, or is declared to become
	factDeriver     = "deriver"      // the derivation that made it, or would
	factOutput      = "output"       // its name there
	factNarHash     = "narhash"      // ALGO:NIXBASE32
	factNarSize     = "narsize"      // bytes
	factClosureSize = "closure-size" // bytes of the NARs of all that it needs, and its own
	factReferences  = "references"   // a number
	factRegistered  = "registered"   // when it became valid
	factLastUse     = "last-use"     // when it was looked up, within about an hour
	factExpected    = "expected"     // how long its build took the last time, in seconds
	factFailure     = "failure"      // why it failed
)

const (
	stateRealised   = "realised"
	stateBuilding   = "building" // or waiting for its turn
	stateFailed     = "failed"
	stateUnrealised = "unrealised"
)

// facts answers from the state directory what is known of a name.
type facts struct {
	state      *state.State
	normaliser *normaliser.Normaliser
}

var _ fs.Facts = facts{}

func (f facts) Keys(name string) ([]string, error) {
	p, entry, err := f.look(name)
	if err != nil {
		return nil, err
	}
	keys := []string{factKind, factDeriver, factOutput, factExpected, factFailure}
	if entry.Valid {
		keys = []string{factKind, factDeriver, factOutput, factNarHash, factNarSize, factClosureSize, factReferences, factRegistered, factLastUse}
	}
	there := []string{factState}
	for _, k := range keys {
		if k == factClosureSize {
			there = append(there, k) // always there, and not for nothing
			continue
		}
		switch v, err := f.fact(p, entry, k); {
		case err != nil:
			return nil, err
		case v != "":
			there = append(there, k)
		}
	}
	return there, nil
}

func (f facts) Fact(name, key string) ([]byte, error) {
	p, entry, err := f.look(name)
	if err != nil {
		return nil, err
	}
	v, err := f.fact(p, entry, key)
	if err == nil && v == "" {
		err = store.ErrUnknown
	}
	return []byte(v), err
}

func (f facts) look(name string) (store.Path, fs.Entry, error) {
	p, err := f.state.Store().Join(name)
	if err != nil {
		return "", fs.Entry{}, err
	}
	entry, err := names{f.state}.Lookup(name)
	return p, entry, err
}

// fact is "" if there is no such fact.
func (f facts) fact(p store.Path, entry fs.Entry, key string) (string, error) {
	switch key {
	case factState:
		return f.stateOf(p, entry.Valid)
	case factKind:
		return string(entry.Kind), nil
	case factDeriver, factOutput:
		return f.deriver(p, entry.Valid, key)
	case factExpected:
		drv, _, err := f.known(p)
		d, ok := f.state.DB().Expected(drv)
		if err != nil || entry.Valid || !ok {
			return "", err
		}
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64), nil
	case factFailure:
		failure, err := f.failure(p)
		if err != nil || failure == nil || entry.Valid {
			return "", err
		}
		return strings.ReplaceAll(failure.Error(), "\n", " "), nil
	}
	if !entry.Valid {
		return "", nil
	}
	return f.ofValid(p, key)
}

func (f facts) ofValid(p store.Path, key string) (string, error) {
	db := f.state.DB()
	switch key {
	case factClosureSize:
		infos, err := db.Requisites([]store.Path{p})
		sum := int64(0)
		for i := range infos {
			sum += infos[i].NarSize
		}
		return strconv.FormatInt(sum, 10), err
	case factLastUse:
		t, err := db.LastUse(p)
		if err != nil || t.IsZero() {
			return "", err
		}
		return t.UTC().Format(time.RFC3339), nil
	}
	info, err := db.Info(p)
	if err != nil {
		return "", err
	}
	switch key {
	case factNarHash:
		return fmt.Sprint(info.NarHash), nil
	case factNarSize:
		return strconv.FormatInt(info.NarSize, 10), nil
	case factReferences:
		return strconv.Itoa(len(info.References)), nil
	case factRegistered:
		if info.Registered == 0 {
			return "", nil
		}
		return info.RegisteredAt().UTC().Format(time.RFC3339), nil
	}
	return "", nil
}

func (f facts) stateOf(p store.Path, valid bool) (string, error) {
	if valid {
		return stateRealised, nil
	}
	drv, _, err := f.known(p)
	if err != nil {
		return "", err
	}
	if f.normaliser.Wanted(p) || drv != "" && f.normaliser.Wanted(drv) {
		return stateBuilding, nil
	}
	failure, err := f.failure(p)
	if failure != nil {
		return stateFailed, nil
	}
	return stateUnrealised, err
}

// known is which derivation makes p; "" if none does.
func (f facts) known(p store.Path) (drv store.Path, output string, err error) {
	k, err := f.state.DB().Known(p)
	if errors.Is(err, store.ErrUnknown) {
		return "", "", nil
	}
	return k.Drv, k.Output, err
}

func (f facts) deriver(p store.Path, valid bool, key string) (string, error) {
	drv, output, err := f.known(p)
	if err != nil {
		return "", err
	}
	if valid {
		info, err := f.state.DB().Info(p)
		if err != nil {
			return "", err
		}
		if info.Deriver != "" && info.Deriver != drv {
			drv, output = info.Deriver, ""
		}
	}
	if key == factOutput {
		return output, nil
	}
	return string(drv), nil
}

// failure is what is remembered of the derivation that makes p, or of p.
func (f facts) failure(p store.Path) (*store.Failure, error) {
	drv, _, err := f.known(p)
	if err != nil {
		return nil, err
	}
	if drv != "" {
		if failure, err := f.state.DB().Failure(drv); failure != nil || err != nil {
			return failure, err
		}
	}
	return f.state.DB().Failure(p)
}

// used notes that a store object is in use.
func (f facts) used(name string) {
	if p, err := f.state.Store().Join(name); err == nil {
		f.state.DB().Touch(time.Now(), p)
	}
}
