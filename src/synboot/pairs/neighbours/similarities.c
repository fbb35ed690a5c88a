/* Similarities to the bit of pool.py's: products of float32 in double, summed by halves, rounded to
   float32. Since those products are exact, it is no matter whether the compiler fuses them with
   sums. */

#include <stdint.h>

/* `sums` has room for `width`. */
void similarities(const float *vectors, const int64_t *queries, const int64_t *documents,
                  double *sums, float *out, int64_t width, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        const float *a = vectors + queries[i] * width, *b = vectors + documents[i] * width;
        int64_t half = (width + 1) / 2;
        for (int64_t j = 0; j < half; j++)
            sums[j] = (double)a[j] * b[j];
        for (int64_t j = half; j < width; j++)
            sums[j - half] += (double)a[j] * b[j];
        for (int64_t left = half; left > 1; left = half) {
            half = (left + 1) / 2;
            for (int64_t j = half; j < left; j++)
                sums[j - half] += sums[j];
        }
        out[i] = (float)(sums[0] + 0.0); /* no -0 */
    }
}
