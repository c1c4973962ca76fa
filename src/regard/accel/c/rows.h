/* Kernels that treat each row, or each number, by itself: norms, residual and dropout, activations. */

#ifndef REGARD_ROWS
#define REGARD_ROWS

#include "vectors.h"

struct norm {
    const float *gain, *bias; /* [width]; gain 0: there is no norm; bias 0: none is added */
    float epsilon;
    int centred; /* 1: layer norm; 0: RMS norm */
};

/* out = (x - mean) / sqrt(variance + epsilon) * gain + bias for each row of x [rows, width]; in RMS norm the mean is
   taken to be 0. ``out`` may be x. */
static void normalize(const struct norm *norm, const float *x, long rows, long width, float *out)
{
    for (long r = 0; r < rows; r++, x += width, out += width) {
        float mean = 0, variance = 0;
        if (norm->centred) {
#pragma omp simd reduction(+ : mean)
            for (long k = 0; k < width; k++)
                mean += x[k];
            mean /= width;
        }
#pragma omp simd reduction(+ : variance)
        for (long k = 0; k < width; k++)
            variance += (x[k] - mean) * (x[k] - mean);
        float scale = 1.0f / sqrtf(variance / width + norm->epsilon);
#pragma omp simd
        for (long k = 0; k < width; k++)
            out[k] = (x[k] - mean) * scale * norm->gain[k];
        if (norm->bias)
#pragma omp simd
            for (long k = 0; k < width; k++)
                out[k] += norm->bias[k];
    }
}

/* x [count] += other [count] */
static void add(float *x, const float *other, long count)
{
#pragma omp simd
    for (long k = 0; k < count; k++)
        x[k] += other[k];
}

/* Dropout: a number is dropped if its random byte is less than ``least``, else multiplied by ``scale``, 1 / (1 - p). */
struct dropout {
    const int8_t *bytes;
    int least;
    float scale;
};

/* out = residual + dropout(x), all [count]; x is in bf16 if ``bf16``. */
void drop_and_add(struct dropout d, const void *x, int bf16, const float *restrict residual, long count,
                  float *restrict out)
{
    const int8_t *restrict bytes = d.bytes;
#define DROP(bf16) \
    _Pragma("omp simd") for (long k = 0; k < count; k++) \
        out[k] = residual[k] + number_at(x, k, bf16) * (bytes[k] < d.least ? 0 : d.scale)
    if (bf16)
        DROP(1);
    else
        DROP(0);
#undef DROP
}

/* The gradient of what drop_and_add returned -> d_x, that of its x */
void drop_backward(struct dropout d, const float *restrict gradient, long count, void *restrict d_x, int bf16)
{
    const int8_t *restrict bytes = d.bytes;
    if (bf16)
#pragma omp simd
        for (long k = 0; k < count; k++)
            ((uint16_t *)d_x)[k] = to_bf16(gradient[k] * (bytes[k] < d.least ? 0 : d.scale));
    else
#pragma omp simd
        for (long k = 0; k < count; k++)
            ((float *)d_x)[k] = gradient[k] * (bytes[k] < d.least ? 0 : d.scale);
}

/* sums [width] += the rows of x [rows, width], which is in bf16 if ``bf16`` */
void sum_columns(const void *x, long rows, long width, int bf16, float *restrict sums)
{
    for (long r = 0; r < rows; r++, x = (const char *)x + width * (bf16 ? 2 : 4)) {
        long k = 0;
        for (; width - k >= LANES; k += LANES)
            store(load(sums, k, 0) + load(x, k, bf16), sums, k, 0);
        for (; k < width; k++)
            sums[k] += number_at(x, k, bf16);
    }
}

enum activation { RELU, GELU, GELU_TANH, SILU };

/* 1 / (1 + exp(-x)) */
ALWAYS float sigmoid(float x)
{
    float power = exp_of(-fabsf(x));
    return (x < 0 ? power : 1.0f) / (1.0f + power);
}

/* The cumulative normal distribution, within 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26) */
ALWAYS float normal_cdf(float x)
{
    float size = fabsf(x) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * size);
    float series = 1.061405429f;
    series = series * t - 1.453152027f;
    series = series * t + 1.421413741f;
    series = series * t - 0.284496736f;
    series = series * t + 0.254829592f;
    float above = 0.5f * series * t * exp_of(-size * size);
    return x < 0 ? above : 1.0f - above;
}

/* x = activation(gate) * x, or without a gate (0) x = activation(x), all [count] */
static void activate(int activation, float *x, const float *gate, long count)
{
    const float *in = gate ? gate : x;
#define ACTIVATE(value) \
    _Pragma("omp simd") for (long k = 0; k < count; k++) { float z = in[k]; x[k] = gate ? (value) * x[k] : (value); }
    if (activation == RELU)
        ACTIVATE(z < 0 ? 0.0f : z)
    else if (activation == GELU)
        ACTIVATE(z * normal_cdf(z))
    else if (activation == GELU_TANH)
        ACTIVATE(z * sigmoid(1.59576912f * (z + 0.044715f * z * z * z)))
    else
        ACTIVATE(z * sigmoid(z))
}

#endif
