#ifndef ROMAN_H
#define ROMAN_H

#define ROMAN_SIZE 16 /* for MMMDCCCLXXXVIII, the longest one */

/* Writes n to text, and returns 0; or -1, if the Romans had no way to. */
int roman(int n, char text[ROMAN_SIZE]);

#endif
