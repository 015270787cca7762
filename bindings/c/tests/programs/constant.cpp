// The same program in C++.

#include "constant.c"
