#include "go_asm.h"
#include "textflag.h"

// func cloneAndCall(args *cloneArgs, size uintptr, calls *call, result *result) int
//
// The child shares the memory of its parent, stack included, and so uses
// registers only: the kernel keeps all but R0.
TEXT ·cloneAndCall(SB), NOSPLIT, $0-40
	MOVD args+0(FP), R0
	MOVD size+8(FP), R1
	MOVD calls+16(FP), R19
	MOVD result+24(FP), R20
	MOVD $435, R8 // clone3
	SVC
	CBZ R0, next
	MOVD R0, ret+32(FP)
	RET

next:
	MOVD call_number(R19), R8
	MOVD (call_args+0)(R19), R0
	MOVD (call_args+8)(R19), R1
	MOVD (call_args+16)(R19), R2
	MOVD (call_args+24)(R19), R3
	MOVD (call_args+32)(R19), R4
	MOVD (call_args+40)(R19), R5
	SVC
	MOVD call_least(R19), R6
	CMP R6, R0
	BGE good
	MOVD call_also(R19), R6
	CMP R6, R0
	BNE bad

good:
	MOVD call_to(R19), R6
	CBZ R6, done
	MOVD R0, (R6)

done:
	ADD $call__size, R19
	B next

bad:
	MOVD R19, result_at(R20)
	MOVD R0, result_value(R20)

exit:
	MOVD $94, R8 // exit_group
	MOVD $1, R0
	SVC
	B exit
