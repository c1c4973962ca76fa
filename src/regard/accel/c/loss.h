/* Cross entropy, row by row: what becomes of logits on the way to their gradients. */

#ifndef REGARD_LOSS
#define REGARD_LOSS

#include "vectors.h"

/* logits [rows, width], in bf16 if ``halves`` -> in place softmax(logits) - rest * one-hot(label), which is their
   gradient but for what is the same for all. found: the sums over the rows of -log p(label) and of the labels' logits;
   Returned is 1, or 0 where there is no memory for a row, or -1 where a label is none. */
int soften(void *logits, long rows, long width, const int64_t *labels, float rest, int halves, double *found)
{
    float *row = malloc((width + LANES) * sizeof *row);
    if (!row)
        return 0;
    found[0] = found[1] = 0;
    for (long r = 0; r < rows; r++) {
        if (labels[r] < 0 || labels[r] >= width) {
            free(row);
            return -1;
        }
        void *its = (char *)logits + r * width * (halves ? 2 : 4);
        float *x = halves ? row : its, most = -INFINITY, sum = 0;
        if (halves)
            for (long k = 0; k < width; k++)
                x[k] = number_of(its, k, 1);
#pragma omp simd reduction(max : most)
        for (long k = 0; k < width; k++)
            most = x[k] > most ? x[k] : most;
        float right = x[labels[r]];
#pragma omp simd reduction(+ : sum)
        for (long k = 0; k < width; k++) {
            x[k] = exp_of(x[k] - most);
            sum += x[k];
        }
        float share = 1 / sum;
        found[0] += most + logf(sum) - right;
        found[1] += right;
        if (halves) {
            x[labels[r]] -= rest * sum;
            for (long k = 0; k < width; k++)
                ((uint16_t *)its)[k] = half_of(x[k] * share);
        } else {
#pragma omp simd
            for (long k = 0; k < width; k++)
                x[k] *= share;
            x[labels[r]] -= rest;
        }
    }
    free(row);
    return 1;
}

/* sums += parts, which are in bf16 */
void add_halves(float *sums, const uint16_t *parts, long count)
{
    for (long k = 0; k < count; k++)
        sums[k] += number_of(parts, k, 1);
}

#endif
