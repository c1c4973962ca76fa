/* The best tokens of each row of scores, and the logarithm of the sum over all. */

#ifndef REGARD_RANKING
#define REGARD_RANKING

#include "products.h"

/* log of the sum of exp(x) */
static float log_sum_exp(const float *restrict x, long width)
{
    float most = x[0], sum = 0;
#pragma omp simd reduction(max : most)
    for (long k = 1; k < width; k++)
        most = x[k] > most ? x[k] : most;
#pragma omp simd reduction(+ : sum)
    for (long k = 0; k < width; k++)
        sum += exp_of(x[k] - most);
    return most + logf(sum);
}

/* values, indices: the ``count`` largest numbers of x, largest first, and of equal ones the first */
static void largest(const float *restrict x, long width, long count, float *restrict values, int64_t *restrict indices)
{
    enum { STRIDE = 8 * LANES }; /* so many are looked at together, and seldom one by one */
    for (long n = 0; n < count; n++)
        values[n] = -INFINITY, indices[n] = 0;
    for (long first = 0; first < width; first += STRIDE) {
        long end = first + STRIDE < width ? first + STRIDE : width;
        float most = -INFINITY;
#pragma omp simd reduction(max : most)
        for (long k = first; k < end; k++)
            most = x[k] > most ? x[k] : most;
        if (!(most > values[count - 1]))
            continue;
        for (long k = first; k < end; k++) {
            if (!(x[k] > values[count - 1]))
                continue;
            long n = count - 1;
            for (; n > 0 && x[k] > values[n - 1]; n--)
                values[n] = values[n - 1], indices[n] = indices[n - 1];
            values[n] = x[k], indices[n] = k;
        }
    }
}

/* Of scores [rows, width], which may be overwritten: log-probabilities and tokens [rows, count] of the best, and ends
   [rows], the log-probability of token ``end``. The ``hidden`` are never among the best, but keep their share. */
void rank(float *scores, long rows, long width, long count, long end, const int64_t *hidden, long hidden_count,
          float *values, int64_t *tokens, float *ends)
{
    for (long r = 0; r < rows; r++, scores += width, values += count, tokens += count) {
        float norm = log_sum_exp(scores, width);
        /* No log-probability is above 0: rounding may say otherwise. */
        ends[r] = scores[end] > norm ? 0 : scores[end] - norm;
        for (long n = 0; n < hidden_count; n++)
            scores[hidden[n]] = -INFINITY;
        largest(scores, width, count, values, tokens);
        for (long n = 0; n < count; n++)
            values[n] = values[n] > norm ? 0 : values[n] - norm;
    }
}

/* The same of x [rows, inputs] and the output table, a few rows at a time, so that their scores stay near. 0 where there
   is no memory for them. */
int rank_all(const struct linear *table, const float *x, long rows, long count, long end, const int64_t *hidden,
             long hidden_count, float *values, int64_t *tokens, float *ends)
{
    enum { AT_ONCE = 4 * ROWS };
    float *scores = malloc(AT_ONCE * table->outputs * sizeof *scores);
    uint32_t *cut = malloc(BLOCK * table->inputs * sizeof *cut);
    int done = scores && cut;
    for (long first = 0; done && first < rows; first += AT_ONCE) {
        long left = rows - first < AT_ONCE ? rows - first : AT_ONCE;
        multiply(table, x + first * table->inputs, left, scores, cut);
        rank(scores, left, table->outputs, count, end, hidden, hidden_count, values + first * count,
             tokens + first * count, ends + first);
    }
    free(scores);
    free(cut);
    return done;
}

#endif
