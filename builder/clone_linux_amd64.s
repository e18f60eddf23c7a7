#include "go_asm.h"
#include "textflag.h"

// func cloneAndCall(args *cloneArgs, size uintptr, calls *call, result *result) int
//
// The child shares the memory of its parent, stack included, and so uses
// registers only: the kernel keeps all but AX, CX and R11.
TEXT ·cloneAndCall(SB), NOSPLIT, $0-40
	MOVQ args+0(FP), DI
	MOVQ size+8(FP), SI
	MOVQ calls+16(FP), R12
	MOVQ result+24(FP), R13
	MOVQ $435, AX // clone3
	SYSCALL
	TESTQ AX, AX
	JEQ next
	MOVQ AX, ret+32(FP)
	RET

next:
	MOVQ call_number(R12), AX
	MOVQ (call_args+0)(R12), DI
	MOVQ (call_args+8)(R12), SI
	MOVQ (call_args+16)(R12), DX
	MOVQ (call_args+24)(R12), R10
	MOVQ (call_args+32)(R12), R8
	MOVQ (call_args+40)(R12), R9
	SYSCALL
	CMPQ AX, call_least(R12)
	JGE good
	CMPQ AX, call_also(R12)
	JNE bad

good:
	MOVQ call_to(R12), CX
	TESTQ CX, CX
	JEQ done
	MOVQ AX, (CX)

done:
	ADDQ $call__size, R12
	JMP next

bad:
	MOVQ R12, result_at(R13)
	MOVQ AX, result_value(R13)

exit:
	MOVQ $231, AX // exit_group
	MOVQ $1, DI
	SYSCALL
	JMP exit
