/* x W^T + bias, in fp32, bf16 or int8, W laid out once in panels of PANEL outputs.

   A panel holds, for one unit of inputs after another, the weights of its outputs side by side: a unit is the 4 bytes
   that one instruction multiplies, which are 1 number in fp32, 2 in bf16, 4 in int8. A tile of ROWS rows by one panel
   stays in registers. Each row is added up in the same order, however many stand beside it. */

#ifndef REGARD_PRODUCTS
#define REGARD_PRODUCTS

#include "vectors.h"

enum kind { FP32, BF16, INT8 };
static const long numbers_of_unit[] = {1, 2, 4};

#ifdef __AVX512F__
enum { ROWS = 8 }; /* of 32 registers 16 hold sums */
#else
enum { ROWS = 6 }; /* of 16 registers 12 */
#endif
enum { WIDE = 2, PANEL = WIDE * LANES, BLOCK = 96 }; /* BLOCK rows are cut at a time: they stay near while panels go by */

struct linear {
    long inputs, outputs;
    int kind;
    const uint32_t *panels; /* [panels, units, PANEL] */
    const float *bias, *steps; /* [panels * PANEL]; steps are of the weights in int8 */
    const int32_t *offsets; /* int8: 128 times the sum of each output's weights */
};

/* Steps on either side of 0 that weights in int8 may have; 0 where this is compiled without instructions for them. */
int weight_steps(void)
{
#if defined __AVX512VNNI__
    return 127;
#elif defined __AVX2__ && !defined __AVX512F__
    return 63; /* two products share 16 bits */
#else
    return 0;
#endif
}

/* Whether this is compiled with the instructions of a kind. */
int multiplies(int kind)
{
#ifdef __AVX512BF16__
    int bf16 = 1;
#else
    int bf16 = 0;
#endif
    return kind == FP32 ? 1 : kind == BF16 ? bf16 : weight_steps() > 0;
}

long panel(void)
{
    return PANEL;
}

/* sums + x · weights, one unit of each, in fp32 or bf16 */
ALWAYS lanes add_product(int kind, lanes sums, uint32_t x, const uint32_t *weights)
{
    if (kind == FP32) {
        float number;
        memcpy(&number, &x, sizeof number);
        return sums + number * load(weights, 0, 0);
    }
#ifdef __AVX512BF16__
    if (kind == BF16)
        return (lanes)_mm512_dpbf16_ps((__m512)sums, (__m512bh)_mm512_set1_epi32((int)x),
                                       (__m512bh)_mm512_loadu_si512(weights));
#endif
    return sums;
}

/* The same in int8. (Sums in a type of their own: as floats by name, GCC copies each before and after it is added to.) */
ALWAYS words add_bytes(words sums, uint32_t x, const uint32_t *weights)
{
#if defined __AVX512VNNI__
    return (words)_mm512_dpbusd_epi32((__m512i)sums, _mm512_set1_epi32((int)x), _mm512_loadu_si512(weights));
#elif defined __AVX2__
    __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi32((int)x), _mm256_loadu_si256((const __m256i *)weights));
    return (words)_mm256_add_epi32((__m256i)sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#else
    return sums;
#endif
}

/* out[r, n] of ``rows`` rows of x, ``units`` units long, and the panel whose first output is n */
ALWAYS void tile(const struct linear *w, int kind, int rows, const uint32_t *x, long units, const float *steps, long n,
                 float *out)
{
    lanes sums[ROWS][WIDE];
    words counts[ROWS][WIDE]; /* the sums in int8 */
    const uint32_t *weights = w->panels + n * units;
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < WIDE; c++)
            sums[r][c] = (lanes){0}, counts[r][c] = (words){0};
    for (long k = 0; k < units; k++, weights += PANEL)
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < WIDE; c++)
                if (kind == INT8)
                    counts[r][c] = add_bytes(counts[r][c], x[r * units + k], weights + c * LANES);
                else
                    sums[r][c] = add_product(kind, sums[r][c], x[r * units + k], weights + c * LANES);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < WIDE; c++) {
            long first = n + c * LANES, left = w->outputs - first;
            lanes found = sums[r][c], bias = load(w->bias, first, 0);
            if (kind == INT8) {
                words offsets;
                memcpy(&offsets, w->offsets + first, sizeof offsets);
                found = __builtin_convertvector(counts[r][c] - offsets, lanes) * load(w->steps, first, 0);
                found = found * steps[r];
            }
            found += bias;
            if (left >= LANES)
                memcpy(out + r * w->outputs + first, &found, sizeof found);
            else if (left > 0)
                memcpy(out + r * w->outputs + first, &found, left * sizeof *out);
        }
}

/* bytes = round(x / step) + 128 with step = max |x| / 127, which is given back: NaN if some number is not finite, so
   that this is not lost */
ALWAYS float quantize(const float *x, long width, uint8_t *bytes)
{
    float most = 1e-30f, nothing = 0; /* the step of a row of zeros */
#pragma omp simd reduction(max : most) reduction(+ : nothing)
    for (long k = 0; k < width; k++) {
        float size = fabsf(x[k]);
        most = size > most ? size : most;
        nothing += x[k] - x[k];
    }
    float scale = 127.0f / most;
    for (long k = 0; k < width; k++)
        bytes[k] = (uint8_t)bits_of(x[k] * scale + (ROUNDED + 128.0f));
    return most / 127.0f + nothing;
}

ALWAYS void multiply_as(const struct linear *w, int kind, const float *x, long rows, float *out, uint32_t *cut)
{
    long numbers = numbers_of_unit[kind], units = (w->inputs + numbers - 1) / numbers;
    float steps[BLOCK];
    for (long first = 0; first < rows; first += BLOCK, x += BLOCK * w->inputs, out += BLOCK * w->outputs) {
        long count = rows - first < BLOCK ? rows - first : BLOCK;
        for (long r = 0; r < count && kind != FP32; r++) {
            const float *from = x + r * w->inputs;
            uint32_t *to = cut + r * units;
            to[units - 1] = 0; /* what is over meets weights of 0 */
            if (kind == INT8)
                steps[r] = quantize(from, w->inputs, (uint8_t *)to);
            else
                for (long k = 0; k < w->inputs; k++)
                    ((uint16_t *)to)[k] = half_of(from[k]);
        }
        const uint32_t *all = kind == FP32 ? (const uint32_t *)x : cut;
        for (long n = 0; n < w->outputs; n += PANEL) {
            long r = 0;
#define TILES(size) \
    for (; count - r >= size; r += size) \
        tile(w, kind, size, all + r * units, units, steps + r, n, out + r * w->outputs)
            TILES(ROWS);
            TILES(4);
            TILES(2);
            TILES(1);
        }
    }
}

/* x [rows, inputs] -> out [rows, outputs]; ``cut`` has room for BLOCK times the inputs */
static void multiply(const struct linear *w, const float *x, long rows, float *out, uint32_t *cut)
{
    if (w->kind == FP32)
        multiply_as(w, FP32, x, rows, out, cut);
    else if (w->kind == BF16)
        multiply_as(w, BF16, x, rows, out, cut);
    else
        multiply_as(w, INT8, x, rows, out, cut);
}

/* Weights in fp32, [outputs, inputs] or if ``turned`` [inputs, outputs], laid out: what is over in the last panel is 0. */
static void lay_out(const float *weights, int turned, long outputs, long inputs, float *panels)
{
    for (long n = 0; n < outputs; n += PANEL, panels += inputs * PANEL)
        for (long k = 0; k < inputs; k += LANES)
            for (long c = n; c < n + PANEL; c += LANES)
                if (!turned && outputs - c >= LANES && inputs - k >= LANES)
                    turn_over_square(weights + c * inputs + k, inputs, panels + k * PANEL + c - n, PANEL);
                else
                    for (long i = k; i < k + LANES && i < inputs; i++)
                        for (long o = c; o < c + LANES; o++)
                            panels[i * PANEL + o - n] =
                                o >= outputs ? 0 : turned ? weights[i * outputs + o] : weights[o * inputs + i];
}

/* x [rows, inputs] in fp32 and weights as in ``lay_out``, of which there will be others at the next update, bias
   [outputs] or 0 -> out [rows, outputs]; 0 where there is no memory for it */
int multiply_once(const float *x, long rows, const float *weights, int turned, long outputs, long inputs,
                  const float *bias, float *out)
{
    long panels = (outputs + PANEL - 1) / PANEL * PANEL;
    float *room = malloc(panels * (inputs + 1) * sizeof *room);
    if (!room)
        return 0;
    memset(room, 0, panels * sizeof *room);
    if (bias)
        memcpy(room, bias, outputs * sizeof *room);
    lay_out(weights, turned, outputs, inputs, room + panels);
    struct linear w = {inputs, outputs, FP32, (uint32_t *)(room + panels), room, 0, 0};
    multiply(&w, x, rows, out, 0);
    free(room);
    return 1;
}

#endif
