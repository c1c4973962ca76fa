/* Products with prepacked weights: x W^T + bias, W in fp32, bf16 or int8.

   W [outputs, inputs] is prepacked as panels [panels, units, PANEL]: each panel has PANEL outputs, and a unit is the 4
   bytes that one lane multiplies at once: 1 input in fp32, 2 in bf16, 4 in int8. The sums of a tile (ROWS rows of x by
   one panel) stay in registers. The sums of a row are made in the same order whatever other rows there are, so that a
   sentence gets the same bits alone and in a batch. */

#ifndef REGARD_PRODUCTS
#define REGARD_PRODUCTS

#include "vectors.h"

enum kind { FP32, BF16, INT8 };
static const long numbers_of_unit[] = {1, 2, 4};

#ifdef __AVX512F__
enum { ROWS = 8 }; /* sums take 16 of 32 registers */
#else
enum { ROWS = 6 }; /* sums take 12 of 16 registers */
#endif
/* A panel is WIDE registers wide. BLOCK rows of x are multiplied with all panels before the next ones: they stay in the
   cache. */
enum { WIDE = 2, PANEL = WIDE * LANES, BLOCK = 96 };

struct linear {
    long inputs, outputs;
    int kind;
    const uint32_t *panels; /* [panels, units, PANEL] */
    const float *bias, *scales; /* [panels * PANEL]; int8: weight = scale * integer, a scale for each output */
    const int32_t *offsets; /* int8: 128 times the sum of each output's integers, [panels * PANEL] */
};

/* The largest absolute value of a quantized weight; 0 where this is compiled without instructions for int8 */
int weight_limit(void)
{
#if defined __AVX512VNNI__
    return 127;
#elif defined __AVX2__ && !defined __AVX512F__
    return 63; /* the instruction adds two products u8 * i8 in 16 bits */
#else
    return 0;
#endif
}

/* Whether this is compiled with instructions for weights of a kind */
int multiplies(int kind)
{
#ifdef __AVX512BF16__
    int bf16 = 1;
#else
    int bf16 = 0;
#endif
    return kind == FP32 ? 1 : kind == BF16 ? bf16 : weight_limit() > 0;
}

/* The outputs of a panel, for whoever prepacks weights */
long panel(void)
{
    return PANEL;
}

/* sums + x * weights, one unit of x and of each output's weights, in fp32 or bf16 */
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

/* The same in int8. Its sums have a type of their own: integer sums kept as floats GCC copied at every addition. */
ALWAYS ints add_int8_product(ints sums, uint32_t x, const uint32_t *weights)
{
#if defined __AVX512VNNI__
    return (ints)_mm512_dpbusd_epi32((__m512i)sums, _mm512_set1_epi32((int)x), _mm512_loadu_si512(weights));
#elif defined __AVX2__
    __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi32((int)x), _mm256_loadu_si256((const __m256i *)weights));
    return (ints)_mm256_add_epi32((__m256i)sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#else
    return sums;
#endif
}

/* out[r, n ... n + PANEL - 1] of ``rows`` rows of x, ``units`` units long, and the panel whose first output is n.
   ``row_scales`` are those of quantized rows. */
ALWAYS void tile(const struct linear *w, int kind, int rows, const uint32_t *x, long units, const float *row_scales,
                 long n, float *out)
{
    lanes sums[ROWS][WIDE];
    ints counts[ROWS][WIDE]; /* the sums for int8 */
    const uint32_t *weights = w->panels + n * units;
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < WIDE; c++)
            sums[r][c] = (lanes){0}, counts[r][c] = (ints){0};
    for (long k = 0; k < units; k++, weights += PANEL)
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < WIDE; c++)
                if (kind == INT8)
                    counts[r][c] = add_int8_product(counts[r][c], x[r * units + k], weights + c * LANES);
                else
                    sums[r][c] = add_product(kind, sums[r][c], x[r * units + k], weights + c * LANES);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < WIDE; c++) {
            long first = n + c * LANES, left = w->outputs - first;
            lanes found = sums[r][c], bias = load(w->bias, first, 0);
            if (kind == INT8) {
                ints offsets;
                memcpy(&offsets, w->offsets + first, sizeof offsets);
                found = __builtin_convertvector(counts[r][c] - offsets, lanes) * load(w->scales, first, 0);
                found = found * row_scales[r];
            }
            found += bias;
            if (left >= LANES)
                memcpy(out + r * w->outputs + first, &found, sizeof found);
            else if (left > 0)
                memcpy(out + r * w->outputs + first, &found, left * sizeof *out);
        }
}

/* Quantizes a row: bytes = round(x / scale) + 128 with scale = max |x| / 127, which is returned. It is NaN if a number
   of x is not finite, so that the products are NaN too. */
ALWAYS float quantize(const float *x, long width, uint8_t *bytes)
{
    float largest = 1e-30f, zero = 0; /* 1e-30: for a row of zeros; NaN and infinity make zero NaN */
#pragma omp simd reduction(max : largest) reduction(+ : zero)
    for (long k = 0; k < width; k++) {
        float size = fabsf(x[k]);
        largest = size > largest ? size : largest;
        zero += x[k] - x[k];
    }
    float inverse = 127.0f / largest;
    for (long k = 0; k < width; k++)
        bytes[k] = (uint8_t)bits_of(x[k] * inverse + (ROUNDED + 128.0f));
    return largest / 127.0f + zero;
}

/* ``multiply`` for one kind, which the compiler knows: so it makes a loop of its own for each. */
ALWAYS void multiply_as(const struct linear *w, int kind, const float *x, long rows, float *out, uint32_t *converted)
{
    long numbers = numbers_of_unit[kind], units = (w->inputs + numbers - 1) / numbers;
    float scales[BLOCK];
    for (long first = 0; first < rows; first += BLOCK, x += BLOCK * w->inputs, out += BLOCK * w->outputs) {
        long count = rows - first < BLOCK ? rows - first : BLOCK;
        for (long r = 0; r < count && kind != FP32; r++) {
            const float *from = x + r * w->inputs;
            uint32_t *to = converted + r * units;
            to[units - 1] = 0; /* inputs that fill up the last unit meet weights of 0 */
            if (kind == INT8)
                scales[r] = quantize(from, w->inputs, (uint8_t *)to);
            else
                for (long k = 0; k < w->inputs; k++)
                    ((uint16_t *)to)[k] = to_bf16(from[k]);
        }
        const uint32_t *all = kind == FP32 ? (const uint32_t *)x : converted;
        for (long n = 0; n < w->outputs; n += PANEL) {
            long r = 0;
#define TILES(size) \
    for (; count - r >= size; r += size) \
        tile(w, kind, size, all + r * units, units, scales + r, n, out + r * w->outputs)
            TILES(ROWS);
            TILES(4);
            TILES(2);
            TILES(1);
        }
    }
}

/* x [rows, inputs] in fp32 -> out [rows, outputs]; ``converted`` is working memory for BLOCK rows of inputs in the type
   of the weights: 4 bytes an input are enough for all types. */
static void multiply(const struct linear *w, const float *x, long rows, float *out, uint32_t *converted)
{
    if (w->kind == FP32)
        multiply_as(w, FP32, x, rows, out, converted);
    else if (w->kind == BF16)
        multiply_as(w, BF16, x, rows, out, converted);
    else
        multiply_as(w, INT8, x, rows, out, converted);
}

/* Prepacks weights in fp32, [outputs, inputs] or if ``transposed`` [inputs, outputs]; the last panel is padded with
   0. */
static void prepack(const float *weights, int transposed, long outputs, long inputs, float *panels)
{
    for (long n = 0; n < outputs; n += PANEL, panels += inputs * PANEL)
        for (long k = 0; k < inputs; k += LANES)
            for (long c = n; c < n + PANEL; c += LANES)
                if (!transposed && outputs - c >= LANES && inputs - k >= LANES)
                    transpose_square(weights + c * inputs + k, inputs, panels + k * PANEL + c - n, PANEL);
                else
                    for (long i = k; i < k + LANES && i < inputs; i++)
                        for (long o = c; o < c + LANES; o++)
                            panels[i * PANEL + o - n] =
                                o >= outputs ? 0 : transposed ? weights[i * outputs + o] : weights[o * inputs + i];
}

/* For training, where weights change at every update: x [rows, inputs], weights as for ``prepack``, and bias [outputs]
   or 0 -> out [rows, outputs], all in fp32. Returns 0 without memory for the prepacked weights, else 1. */
int multiply_once(const float *x, long rows, const float *weights, int transposed, long outputs, long inputs,
                  const float *bias, float *out)
{
    long padded = (outputs + PANEL - 1) / PANEL * PANEL;
    float *memory = malloc(padded * (inputs + 1) * sizeof *memory); /* the bias, then the panels */
    if (!memory)
        return 0;
    memset(memory, 0, padded * sizeof *memory);
    if (bias)
        memcpy(memory, bias, outputs * sizeof *memory);
    prepack(weights, transposed, outputs, inputs, memory + padded);
    struct linear w = {inputs, outputs, FP32, (uint32_t *)(memory + padded), memory, 0, 0};
    multiply(&w, x, rows, out, 0);
    free(memory);
    return 1;
}

#endif
