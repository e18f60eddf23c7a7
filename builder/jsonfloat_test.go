package builder

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
)

// What Nix 2.8 writes into .attrs.json and .attrs.sh for a number in __json; "-" is
// for what bash cannot hold.
func TestNumbersAsNix(t *testing.T) {
	for number, want := range map[string][2]string{
		"0": {"0", "0"}, "-0": {"0", "0"}, "-7": {"-7", "-7"}, "5000000000": {"5000000000", "705032704"},
		"18446744073709551615":   {"18446744073709551615", "-1"},
		"18446744073709551616":   {"1.8446744073709552e+19", "-2147483648"},
		"-9223372036854775809":   {"-9.223372036854776e+18", "-2147483648"},
		"0.0":                    {"0.0", "0"},
		"-0.0":                   {"-0.0", "0"},
		"1e5":                    {"100000.0", "100000"},
		"1.5":                    {"1.5", "-"},
		"1e+06":                  {"1000000.0", "1000000"},
		"1.5e+10":                {"15000000000.0", "-2147483648"},
		"123456.7e9":             {"123456700000000.0", "-2147483648"},
		"1e15":                   {"1e+15", "-2147483648"},
		"0.0001":                 {"0.0001", "-"},
		"0.00012345":             {"0.00012345", "-"},
		"0.00001":                {"1e-05", "-"},
		"1e-100":                 {"1e-100", "0"}, // 0 in 32 bits
		"1e-400":                 {"0.0", "0"},
		"5e-324":                 {"5e-324", "0"},                           // 0 in 32 bits
		"4e+23":                  {"3.9999999999999997e+23", "-2147483648"}, // not the shortest
		"9.5e21":                 {"9.500000000000001e+21", "-2147483648"},
		"444.6658999993235":      {"444.66589999932353", "-"},
		"1.7976931348623157e308": {"1.7976931348623157e+308", "-2147483648"},
		"2147483647.0":           {"2147483647.0", "2147483647"},
		"2147483648.0":           {"2147483648.0", "-2147483648"},
		"16777217.5":             {"16777217.5", "16777217"}, // whole in 32 bits
		"0.5":                    {"0.5", "-"},
	} {
		got := string(appendJSON(nil, json.Number(number)))
		shell, ok := shellScalar(json.Number(number))
		if !ok {
			shell = "-"
		}
		if got != want[0] || shell != want[1] {
			t.Errorf("%s is %s, and %s in bash, want %v", number, got, shell, want)
		}
	}
}

// Whatever digits a float gets, they are its own.
func TestFloatsAreRead(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		f := math.Float64frombits(random.Uint64())
		if math.IsNaN(f) || math.IsInf(f, 0) {
			continue
		}
		s := string(appendJSONFloat(nil, f))
		if back, err := strconv.ParseFloat(s, 64); err != nil || back != f {
			t.Fatalf("%b is written as %s, which is %b (%v)", f, s, back, err)
		}
	}
}
