/* Sixteen numbers at a time, exp, and bf16: what the other files are written in. */

#ifndef REGARD_VECTORS
#define REGARD_VECTORS

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ALWAYS static inline __attribute__((always_inline))

enum { LANES = 16 };
typedef float lanes __attribute__((vector_size(4 * LANES))); /* LANES numbers, in one register or in several */
typedef int32_t words __attribute__((vector_size(4 * LANES)));

typedef float half __attribute__((vector_size(2 * LANES)));
typedef float quarter __attribute__((vector_size(LANES)));

ALWAYS float sum_of(lanes x)
{
    half halves[2];
    quarter quarters[2];
    memcpy(halves, &x, sizeof x);
    halves[0] += halves[1];
    memcpy(quarters, halves, sizeof halves[0]);
    quarters[0] += quarters[1];
    return (quarters[0][0] + quarters[0][1]) + (quarters[0][2] + quarters[0][3]);
}

/* exp(x) for x <= 0, within 2 units of the last place: 2^n * e^r, r = x - n ln 2, and e^r by its series. */
ALWAYS float exp_of(float x)
{
    x = x < -87.0f ? -87.0f : x;
    float n = rintf(x * 1.44269504f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f; /* ln 2 in two parts, the first of which is exact */
    float series = 1.98756915e-4f;
    series = series * r + 1.39819995e-3f;
    series = series * r + 8.33345190e-3f;
    series = series * r + 4.16657960e-2f;
    series = series * r + 1.66666655e-1f;
    series = series * r + 5.00000000e-1f;
    series = series * r * r + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return series * power;
}

/* The bf16 number nearest to x, the even one of two: the upper half of its fp32. */
ALWAYS uint16_t half_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Numbers i ... i + 15 of x, which are in bf16 if ``halves``. */
ALWAYS lanes load(const void *x, long i, int halves)
{
    lanes found;
    if (halves) {
        uint32_t bits[LANES];
        for (int n = 0; n < LANES; n++)
            bits[n] = (uint32_t)((const uint16_t *)x)[i + n] << 16;
        memcpy(&found, bits, sizeof found);
    } else
        memcpy(&found, (const float *)x + i, sizeof found);
    return found;
}

#endif
