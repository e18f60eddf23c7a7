#include <string.h>

#include "roman.h"
#include "table.h"

int roman(int n, char text[ROMAN_SIZE])
{
	if (n < 1 || n > 3999)
		return -1;
	text[0] = '\0';
	for (size_t i = 0; i < sizeof numerals / sizeof *numerals; i++) {
		for (; n >= numerals[i].value; n -= numerals[i].value)
			strcat(text, numerals[i].text);
	}
	return 0;
}
