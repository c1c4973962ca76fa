/* Cross entropy, row by row: from logits to their gradients, in place. */

#ifndef REGARD_LOSS
#define REGARD_LOSS

#include "vectors.h"

/* logits [rows, width], in bf16 or fp32 -> in place softmax(logits) - confidence * one-hot(label). With label smoothing
   e the confidence is 1 - e, and the caller subtracts the rest of the gradient, e / width, which is the same
   everywhere. sums [2]: the sum over the rows of -log p(label), and that of the labels' logits. Returns 1; 0 without
   memory for a row; -1 where a label is not in 0 ... width - 1. */
int softmax_gradient(void *logits, long rows, long width, const int64_t *labels, float confidence, int bf16,
                     double *sums)
{
    float *copy = malloc((width + LANES) * sizeof *copy); /* one row in fp32, where logits are in bf16 */
    if (!copy)
        return 0;
    sums[0] = sums[1] = 0;
    for (long r = 0; r < rows; r++) {
        if (labels[r] < 0 || labels[r] >= width) {
            free(copy);
            return -1;
        }
        void *row = (char *)logits + r * width * (bf16 ? 2 : 4);
        float *x = bf16 ? copy : row, largest = -INFINITY, sum = 0;
        if (bf16)
            for (long k = 0; k < width; k++)
                x[k] = number_at(row, k, 1);
#pragma omp simd reduction(max : largest)
        for (long k = 0; k < width; k++)
            largest = x[k] > largest ? x[k] : largest;
        float label_logit = x[labels[r]];
#pragma omp simd reduction(+ : sum)
        for (long k = 0; k < width; k++) {
            x[k] = exp_of(x[k] - largest);
            sum += x[k];
        }
        float factor = 1 / sum;
        sums[0] += largest + logf(sum) - label_logit;
        sums[1] += label_logit;
        if (bf16) {
            x[labels[r]] -= confidence * sum;
            for (long k = 0; k < width; k++)
                ((uint16_t *)row)[k] = to_bf16(x[k] * factor);
        } else {
#pragma omp simd
            for (long k = 0; k < width; k++)
                x[k] *= factor;
            x[labels[r]] -= confidence;
        }
    }
    free(copy);
    return 1;
}

/* sums [count] += parts [count], which are in bf16 */
void add_bf16(float *sums, const uint16_t *parts, long count)
{
    for (long k = 0; k < count; k++)
        sums[k] += number_at(parts, k, 1);
}

#endif
