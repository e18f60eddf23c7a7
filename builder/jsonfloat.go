package builder

import (
	"math"
	"math/big"
	"math/bits"
	"strconv"
)

// appendJSONFloat writes f as Nix's JSON library (nlohmann, to_chars) does: by the
// algorithm Grisu2 (Loitsch, "Printing Floating-Point Numbers Quickly and Accurately
// with Integers"), whose digits always give the same float again, and are in one case
// of a thousand not the shortest that do. There is a point where that needs at most
// 15 digits before it, or 3 zeros behind it.
func appendJSONFloat(b []byte, f float64) []byte {
	if math.Signbit(f) {
		b, f = append(b, '-'), -f
	}
	if f == 0 {
		return append(b, "0.0"...)
	}
	digits, exponent := grisu2(f)
	point := len(digits) + exponent
	switch {
	case point > 15 || point <= -4:
		b = append(b, digits[0])
		if len(digits) > 1 {
			b = append(append(b, '.'), digits[1:]...)
		}
		b = append(b, 'e', '+')
		if point--; point < 0 {
			b[len(b)-1], point = '-', -point
		}
		if point < 10 {
			b = append(b, '0')
		}
		return strconv.AppendInt(b, int64(point), 10)
	case point <= 0:
		b = appendZeros(append(b, "0."...), -point)
		return append(b, digits...)
	case exponent >= 0:
		b = appendZeros(append(b, digits...), exponent)
		return append(b, ".0"...)
	}
	b = append(append(b, digits[:point]...), '.')
	return append(b, digits[point:]...)
}

func appendZeros(b []byte, n int) []byte {
	for range n {
		b = append(b, '0')
	}
	return b
}

// product is the upper half of x·y, rounded.
func product(x, y uint64) uint64 {
	hi, lo := bits.Mul64(x, y)
	return hi + lo>>63
}

// grisu2 gives digits and a decimal exponent for f, which is greater than 0.
func grisu2(f float64) (digits []byte, exponent int) {
	m, e := math.Float64bits(f)&(1<<52-1), int(math.Float64bits(f)>>52)
	closer := m == 0 && e > 1 // the next lower float is
	if e == 0 {
		e = 1
	} else {
		m |= 1 << 52
	}
	// f is m·2^e. What lies between the middles to its neighbours, low and high, all
	// three scaled by the same power of two, reads as f.
	shift := bits.LeadingZeros64(2*m + 1)
	e += -1075 - 1 - shift
	high, low, w := (2*m+1)<<shift, (2*m-1)<<shift, 2*m<<shift
	if closer {
		low = (4*m - 1) << (shift - 1)
	}
	// And by a power of ten, so that the point is behind 4 to 32 of the 64 bits.
	power, e10, e2 := powerOfTen(e)
	w = product(w, power)
	high = product(high, power) - 1
	low = product(low, power) + 1
	point := -(e + e2 + 64)
	return shortest(low, w, high, point, -e10)
}

// powerOfTen is one of every eighth, as power·2^e2, that brings a number with the
// binary exponent e to one between -60 and -32.
func powerOfTen(e int) (power uint64, e10, e2 int) {
	f := -60 - e - 1
	k := f * 78913 / (1 << 18)
	if f > 0 {
		k++
	}
	e10 = -300 + (300+k+7)/8*8
	exact := new(big.Float).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(e10, -e10))), nil))
	x := new(big.Float).SetPrec(64).Set(exact)
	if e10 < 0 {
		x.Quo(big.NewFloat(1), exact)
	}
	e2 = x.MantExp(x) - 64
	power, _ = x.SetMantExp(x, 64).Uint64()
	return power, e10, e2
}

// shortest gives the fewest digits of a number between low and high, and of those
// nearly the nearest to w. All three have point bits behind the point.
func shortest(low, w, high uint64, point, exponent int) ([]byte, int) {
	delta, dist := high-low, high-w
	one := uint64(1) << point
	whole, part := high>>point, high&(one-1)
	digits := strconv.AppendUint(nil, whole, 10)
	unit := one
	for range len(digits) - 1 {
		unit *= 10
	}
	for i := range digits {
		if rest := high % unit; rest <= delta {
			digits = digits[:i+1]
			for u := unit; u > one; u /= 10 {
				exponent++
			}
			nearer(digits, dist, delta, rest, unit)
			return digits, exponent
		}
		if i < len(digits)-1 {
			unit /= 10
		}
	}
	for {
		part *= 10
		digits = append(digits, '0'+byte(part>>point))
		part &= one - 1
		exponent--
		delta, dist = delta*10, dist*10
		if part <= delta {
			nearer(digits, dist, delta, part, one)
			return digits, exponent
		}
	}
}

// nearer lowers the last digit, which is worth unit, as long as that brings the
// number, which is rest below the highest, nearer to the one that is dist below it.
func nearer(digits []byte, dist, delta, rest, unit uint64) {
	for rest < dist && delta-rest >= unit && (rest+unit < dist || dist-rest > rest+unit-dist) {
		digits[len(digits)-1]--
		rest += unit
	}
}
