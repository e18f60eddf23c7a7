/* roman NUMBER...: prints numbers as the Romans wrote them. */

#include <stdio.h>
#include <stdlib.h>

#include "roman.h"

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		char text[ROMAN_SIZE];

		if (roman(atoi(argv[i]), text) < 0) {
			fprintf(stderr, "roman: %s: not a number from 1 to 3999\n", argv[i]);
			return 1;
		}
		puts(text);
	}
	return 0;
}
