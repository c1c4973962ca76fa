/* The few loops of a decoding step that PyTorch can only do in several passes; native.py compiles and calls them.

   All numbers are fp32, rows are contiguous, and nothing here depends on how many rows there are: a sentence gets the
   same bits alone and among others. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* exp(x) for x <= 0, within 2 units of the last place: 2^n * e^r, r = x - n ln 2, and e^r by its series. */
static inline float exp_of(float x)
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

/* bytes = round(x / step) + 128 with step = max |x| / 127, at least least / 127, which is given back: NaN if some
   number is not finite, so that this is not lost */
static inline float quantize(const float *restrict x, long width, float least, uint8_t *restrict bytes)
{
    float most = least, nothing = 0;
#pragma omp simd reduction(max : most) reduction(+ : nothing)
    for (long k = 0; k < width; k++) {
        float size = fabsf(x[k]);
        most = size > most ? size : most;
        nothing += x[k] - x[k];
    }
    float scale = 127.0f / most;
    for (long k = 0; k < width; k++)
        bytes[k] = (uint8_t)(int32_t)(x[k] * scale + 128.5f);
    return most / 127.0f + nothing;
}

/* Each row of x by itself */
void quantize_rows(const float *restrict x, long rows, long width, float least, uint8_t *restrict bytes,
                   float *restrict steps)
{
    for (long r = 0; r < rows; r++)
        steps[r] = quantize(x + r * width, width, least, bytes + r * width);
}

/* out = x W^T + bias in bytes, W of steps weight_steps, whose rows add up to sums; for few rows of x */
void multiply_few(const float *restrict x, long rows, long width, float least, const int8_t *restrict weights,
                  long outputs, const int32_t *restrict sums, const float *restrict weight_steps,
                  const float *restrict bias, uint8_t *restrict bytes, float *restrict out)
{
    for (long r = 0; r < rows; r++, x += width, out += outputs) {
        float step = quantize(x, width, least, bytes);
        for (long n = 0; n < outputs; n++) {
            int32_t sum = 0;
            for (long k = 0; k < width; k++)
                sum += bytes[k] * weights[n * width + k];
            out[n] = (float)(sum - 128 * sums[n]) * weight_steps[n] * step + bias[n];
        }
    }
}

/* found[r] = found[r] * steps[r] + bias */
void rescale_rows(float *restrict found, long rows, long width, const float *restrict steps,
                  const float *restrict bias)
{
    for (long r = 0; r < rows; r++, found += width) {
        float step = steps[r];
        for (long n = 0; n < width; n++)
            found[n] = found[n] * step + bias[n];
    }
}

/* sums[r] = log of the sum of exp(x[r]) */
void log_sum_exp_of_rows(const float *restrict x, long rows, long width, float *restrict sums)
{
    for (long r = 0; r < rows; r++, x += width) {
        float most = x[0], sum = 0;
#pragma omp simd reduction(max : most)
        for (long k = 1; k < width; k++)
            most = x[k] > most ? x[k] : most;
#pragma omp simd reduction(+ : sum)
        for (long k = 0; k < width; k++)
            sum += exp_of(x[k] - most);
        sums[r] = most + logf(sum);
    }
}

/* out[r] = (x[r] - mean) / sqrt(variance + epsilon) * gain + bias */
void normalize_rows(const float *restrict x, long rows, long width, const float *restrict gain,
                    const float *restrict bias, float epsilon, float *restrict out)
{
    for (long r = 0; r < rows; r++, x += width, out += width) {
        float mean = 0, variance = 0;
#pragma omp simd reduction(+ : mean)
        for (long k = 0; k < width; k++)
            mean += x[k];
        mean /= width;
#pragma omp simd reduction(+ : variance)
        for (long k = 0; k < width; k++)
            variance += (x[k] - mean) * (x[k] - mean);
        float scale = 1.0f / sqrtf(variance / width + epsilon);
        for (long k = 0; k < width; k++)
            out[k] = (x[k] - mean) * scale * gain[k] + bias[k];
    }
}

enum { LANES = 16 };
typedef float lanes __attribute__((vector_size(4 * LANES))); /* LANES numbers, in one register or in several */

typedef float half __attribute__((vector_size(2 * LANES)));
typedef float quarter __attribute__((vector_size(LANES)));

static inline float sum_of(lanes x)
{
    half halves[2];
    quarter quarters[2];
    memcpy(halves, &x, sizeof x);
    halves[0] += halves[1];
    memcpy(quarters, halves, sizeof halves[0]);
    quarters[0] += quarters[1];
    return (quarters[0][0] + quarters[0][1]) + (quarters[0][2] + quarters[0][3]);
}

/* Numbers i ... i + 15 of keys or values, which are the upper halves of fp32 numbers (bf16) if ``halves``. */
static inline lanes load(const void *kept, long i, int halves)
{
    lanes found;
    if (halves) {
        uint32_t bits[LANES];
        for (int n = 0; n < LANES; n++)
            bits[n] = (uint32_t)((const uint16_t *)kept)[i + n] << 16;
        memcpy(&found, bits, sizeof found);
    } else
        memcpy(&found, (const float *)kept + i, sizeof found);
    return found;
}

/* Equation (1) for one query: mixed = softmax(q K^T * scale + mask) V, zeros where the mask leaves nothing. */
static inline void attend_one(const float *query, const void *keys, long key_step, const void *values,
                              long value_step, int halves, const float *mask, long count, long width, float scale,
                              const char *next_keys, const char *next_values, float *restrict weights,
                              float *restrict mixed)
{
    long bytes = halves ? 2 : 4;
    float most = -INFINITY, sum = 0;
    for (long s = 0; s < count; s++) {
        weights[s] = -INFINITY;
        if (mask && mask[s] == -INFINITY) /* unseen: neither its key nor its value is read */
            continue;
        for (long at = 0; at < width * bytes; at += 64) { /* the head that comes next is on its way meanwhile */
            __builtin_prefetch(next_keys + s * key_step * bytes + at);
            __builtin_prefetch(next_values + s * value_step * bytes + at);
        }
        lanes product = {0};
        for (long k = 0; k < width; k += LANES)
            product += load(query, k, 0) * load(keys, s * key_step + k, halves);
        weights[s] = sum_of(product) * scale + (mask ? mask[s] : 0);
        most = weights[s] > most ? weights[s] : most;
    }
    if (most == -INFINITY) {
        memset(mixed, 0, width * sizeof *mixed);
        return;
    }
#pragma omp simd reduction(+ : sum)
    for (long s = 0; s < count; s++) {
        weights[s] = weights[s] == -INFINITY ? 0 : exp_of(weights[s] - most);
        sum += weights[s];
    }
    for (long k = 0; k < width; k += LANES) {
        lanes total = {0};
        for (long s = 0; s < count; s++)
            if (weights[s] != 0)
                total += weights[s] * load(values, s * value_step + k, halves);
        total /= sum;
        memcpy(mixed + k, &total, sizeof total);
    }
}

/* query [B, H, Q, K] with K a multiple of LANES, keys and values [B, G, S, K], mask [B, H, Q, S] or none
   -> mixed [B, Q, H, K]. Steps are from sentence to sentence, head to head, token to token, in numbers. */
int attend(const float *query, long q_sentence, long q_head, long q_token, const char *keys, long k_sentence,
           long k_head, long k_token, const char *values, long v_sentence, long v_head, long v_token,
           const float *mask, long m_sentence, long m_head, long m_token, int halves, long batch, long heads,
           long group, long queries, long count, long width, float scale, float *mixed)
{
    long bytes = halves ? 2 : 4;
    float *weights = malloc((count + 1) * sizeof *weights);
    if (!weights)
        return 0;
    for (long b = 0; b < batch; b++)
        for (long h = 0; h < heads; h++)
            for (long i = 0; i < queries; i++) {
                const float *one = query + b * q_sentence + h * q_head + i * q_token;
                const char *its_keys = keys + (b * k_sentence + h / group * k_head) * bytes;
                const char *its_values = values + (b * v_sentence + h / group * v_head) * bytes;
                const float *its_mask = mask ? mask + b * m_sentence + h * m_head + i * m_token : 0;
                /* the next head's, or the next sentence's first head's; the last of all has none */
                int over = h + 1 == heads, end = over && b + 1 == batch;
                const char *next_keys = end ? its_keys : over ? keys + (b + 1) * k_sentence * bytes
                                                              : its_keys + k_head * bytes;
                const char *next_values = end ? its_values : over ? values + (b + 1) * v_sentence * bytes
                                                                  : its_values + v_head * bytes;
                float *out = mixed + ((b * queries + i) * heads + h) * width;
#define ATTEND(halves, width) \
    attend_one(one, its_keys, k_token, its_values, v_token, halves, its_mask, count, width, scale, next_keys, \
               next_values, weights, out)
                /* What the compiler knows is twice as fast. */
                if (halves && width == 32)
                    ATTEND(1, 32);
                else if (halves && width == 64)
                    ATTEND(1, 64);
                else if (halves)
                    ATTEND(1, width);
                else if (width == 32)
                    ATTEND(0, 32);
                else if (width == 64)
                    ATTEND(0, 64);
                else
                    ATTEND(0, width);
            }
    free(weights);
    return 1;
}
