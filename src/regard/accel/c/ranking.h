/* The top-k tokens of each row of scores, and their log-probabilities. */

#ifndef REGARD_RANKING
#define REGARD_RANKING

#include "products.h"

/* The logarithm of the sum of exp(x), x [width] */
static float log_sum_exp(const float *restrict x, long width)
{
    float largest = x[0], sum = 0;
#pragma omp simd reduction(max : largest)
    for (long k = 1; k < width; k++)
        largest = x[k] > largest ? x[k] : largest;
#pragma omp simd reduction(+ : sum)
    for (long k = 0; k < width; k++)
        sum += exp_of(x[k] - largest);
    return largest + logf(sum);
}

/* values, indices [count]: the ``count`` largest numbers of x [width], in descending order; of equal numbers the one
   with the smaller index comes first. */
static void largest_of_row(const float *restrict x, long width, long count, float *restrict values,
                           int64_t *restrict indices)
{
    enum { STRIDE = 8 * LANES }; /* a stretch without any number among the largest is passed over as a whole */
    for (long n = 0; n < count; n++)
        values[n] = -INFINITY, indices[n] = 0;
    for (long first = 0; first < width; first += STRIDE) {
        long end = first + STRIDE < width ? first + STRIDE : width;
        float largest = -INFINITY;
#pragma omp simd reduction(max : largest)
        for (long k = first; k < end; k++)
            largest = x[k] > largest ? x[k] : largest;
        if (!(largest > values[count - 1]))
            continue;
        for (long k = first; k < end; k++) {
            if (!(x[k] > values[count - 1]))
                continue;
            long n = count - 1; /* insertion sort */
            for (; n > 0 && x[k] > values[n - 1]; n--)
                values[n] = values[n - 1], indices[n] = indices[n - 1];
            values[n] = x[k], indices[n] = k;
        }
    }
}

/* scores [rows, width] -> the log-probabilities ``values`` and the ``tokens`` of the top ``count`` of each row, both
   [rows, count], and ``of_ends`` [rows, end_count], the log-probabilities of the tokens ``ends``. The ``suppressed``
   tokens are never among the top, but count in the softmax. The scores may be overwritten. */
void topk(float *scores, long rows, long width, long count, const int64_t *ends, long end_count,
          const int64_t *suppressed, long suppressed_count, float *values, int64_t *tokens, float *of_ends)
{
    for (long r = 0; r < rows; r++, scores += width, values += count, tokens += count) {
        float norm = log_sum_exp(scores, width);
        /* No log-probability is above 0, even where rounding would make it so: exact stopping relies on this. */
        for (long n = 0; n < end_count; n++)
            of_ends[r * end_count + n] = scores[ends[n]] > norm ? 0 : scores[ends[n]] - norm;
        for (long n = 0; n < suppressed_count; n++)
            scores[suppressed[n]] = -INFINITY;
        largest_of_row(scores, width, count, values, tokens);
        for (long n = 0; n < count; n++)
            values[n] = values[n] > norm ? 0 : values[n] - norm;
    }
}

/* topk of the scores that x [rows, inputs] gets by an output table. Scores are made for a few rows at a time, so that
   they are still in the cache when they are ranked. Returns 0 without memory for these scores, else 1. */
int topk_of_table(const struct linear *table, const float *x, long rows, long count, const int64_t *ends,
                  long end_count, const int64_t *suppressed, long suppressed_count, float *values, int64_t *tokens,
                  float *of_ends)
{
    enum { AT_ONCE = 4 * ROWS };
    float *scores = malloc(AT_ONCE * table->outputs * sizeof *scores);
    uint32_t *converted = malloc(BLOCK * table->inputs * sizeof *converted);
    int done = scores && converted;
    for (long first = 0; done && first < rows; first += AT_ONCE) {
        long left = rows - first < AT_ONCE ? rows - first : AT_ONCE;
        multiply(table, x + first * table->inputs, left, scores, converted);
        topk(scores, left, table->outputs, count, ends, end_count, suppressed, suppressed_count,
             values + first * count, tokens + first * count, end_count ? of_ends + first * end_count : of_ends);
    }
    free(scores);
    free(converted);
    return done;
}

#endif
