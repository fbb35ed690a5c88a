/* Compiled and loaded to learn whether C can be: the headers and extensions that sources of this
 * package use. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef float vec __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(16), aligned(4), may_alias));

float probe(const float *numbers) {
    ivec whole = __builtin_convertvector(*(const vec *)numbers, ivec);
    return sqrtf((float)whole[0]);
}
