/* Equation (1) for packed rows (sentences one after another without padding), forward and backward: training on a CPU.

   The numbers of one head of one sentence fit into a core's cache, where they are fp32 whatever type they come in;
   queries are taken in blocks. The backward pass computes the weights again, from the log-sum-exp of each query's
   scores: nothing is kept whose size is queries times keys (Dao et al. 2022). */

#ifndef REGARD_VARLEN
#define REGARD_VARLEN

#include "attention.h"
#include "vectors.h"

/* Queries, keys or values [rows, heads * width], in bf16 or fp32; rows are ``stride`` numbers apart, so that the three
   may be columns of one table. */
struct head_rows {
    void *data;
    long stride;
};

struct varlen {
    const int64_t *queries, *keys; /* [sentences + 1]: the first row of each sentence, and the number of rows */
    long sentences, heads, groups, width; /* heads / groups heads share keys and values; width of one head */
    int causal, bf16; /* causal: query i attends to keys 0 ... i; bf16: queries, keys and values are in bf16 */
    float scale;
    struct mask bias; /* [sentences, heads, queries, keys], counted from each sentence's first query and key */
};

enum { QUERIES = 32 }; /* queries of a block */

/* ``count`` rounded up to whole registers */
static long padded(long count)
{
    return (count + LANES - 1) / LANES * LANES;
}

/* c[r, n] = sum over k < inner of a[r * row_stride + k * column_stride] * b[k, n], added to c if ``accumulate``; for
   ``rows`` rows of a and ``registers`` registers of columns of b */
ALWAYS void small_tile(int rows, int registers, const float *a, long row_stride, long column_stride, const float *b,
                       long b_stride, long inner, float *c, long c_stride, int accumulate)
{
    lanes sums[8][2];
    for (int r = 0; r < rows; r++)
        for (int w = 0; w < registers; w++)
            sums[r][w] = accumulate ? load(c, r * c_stride + w * LANES, 0) : (lanes){0};
    for (long k = 0; k < inner; k++)
        for (int r = 0; r < rows; r++)
            for (int w = 0; w < registers; w++)
                sums[r][w] += a[r * row_stride + k * column_stride] * load(b, k * b_stride + w * LANES, 0);
    for (int r = 0; r < rows; r++)
        for (int w = 0; w < registers; w++)
            store(sums[r][w], c, r * c_stride + w * LANES, 0);
}

/* The same for all rows and columns; the columns of c fill whole registers. */
static void small_product(const float *a, long row_stride, long column_stride, const float *b, long b_stride,
                          long inner, long rows, long columns, float *c, long c_stride, int accumulate)
{
    for (long n = 0; n < columns; n += 2 * LANES) {
        long r = 0;
#define SMALL(size, registers) \
    for (; rows - r >= size; r += size) \
        small_tile(size, registers, a + r * row_stride, row_stride, column_stride, b + n, b_stride, inner, \
                   c + r * c_stride + n, c_stride, accumulate)
        if (columns - n > LANES) {
            SMALL(8, 2);
            SMALL(4, 2);
            SMALL(2, 2);
            SMALL(1, 2);
        } else {
            SMALL(8, 1);
            SMALL(4, 1);
            SMALL(2, 1);
            SMALL(1, 1);
        }
    }
}

/* Copies ``count`` rows of one head from row ``first`` on, times ``factor`` -> [count, width] in fp32 */
static void load_head(struct head_rows from, int bf16, long first, long count, long head, long width, float factor,
                      float *to)
{
    for (long r = 0; r < count; r++)
        for (long k = 0; k < width; k += LANES) {
            long at = (first + r) * from.stride + head * width + k;
            __builtin_prefetch((char *)from.data + (at + width) * (bf16 ? 2 : 4)); /* the next head */
            store(load(from.data, at, bf16) * factor, to, r * width + k, 0);
        }
}

/* Copies [count, width] back, as the inverse of load_head. */
static void store_head(const float *from, long first, long count, long head, long width, float factor,
                       struct head_rows to, int bf16)
{
    for (long r = 0; r < count; r++)
        for (long k = 0; k < width; k += LANES) {
            long at = (first + r) * to.stride + head * width + k;
            __builtin_prefetch((char *)to.data + (at + width) * (bf16 ? 2 : 4), 1);
            store(load(from, r * width + k, 0) * factor, to.data, at, bf16);
        }
}

/* x [count, width] transposed -> [width, padded(count)]; columns from ``count`` on hold anything. */
static void transpose(const float *x, long count, long width, float *to)
{
    long columns = padded(count);
    for (long s = 0; s < count; s += LANES)
        for (long k = 0; k < width; k += LANES)
            transpose_square(x + s * width + k, width, to + k * columns + s, columns);
}

/* Numbers i ... i + LANES - 1 of x, with ``rest`` in the place of those from ``count`` on */
ALWAYS lanes load_some(const float *x, long i, long count, float rest)
{
    static const int32_t numbers[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    ints bits, rest_bits, number;
    memcpy(&number, numbers, sizeof number);
    ints taken = number < (ints){0} + (int32_t)(count - i); /* all bits are 1 where this holds */
    lanes found = load(x, i, 0), rests = (lanes){0} + rest;
    memcpy(&bits, &found, sizeof bits);
    memcpy(&rest_bits, &rests, sizeof rest_bits);
    bits = (bits & taken) | (rest_bits & ~taken);
    memcpy(&found, &bits, sizeof found);
    return found;
}

/* The larger number of each lane */
ALWAYS lanes larger(lanes x, lanes y)
{
    ints x_larger = x > y, of_x, of_y;
    memcpy(&of_x, &x, sizeof x);
    memcpy(&of_y, &y, sizeof y);
    of_x = (of_x & x_larger) | (of_y & ~x_larger);
    memcpy(&x, &of_x, sizeof x);
    return x;
}

/* The largest number of a register */
ALWAYS float largest_of(lanes x)
{
    float parts[LANES];
    memcpy(parts, &x, sizeof x);
    for (int half = LANES / 2; half; half /= 2)
        for (int n = 0; n < half; n++)
            parts[n] = parts[n] > parts[n + half] ? parts[n] : parts[n + half];
    return parts[0];
}

/* exp of each lane */
ALWAYS lanes exps_of(lanes x)
{
    float numbers[LANES];
    memcpy(numbers, &x, sizeof x);
    for (int n = 0; n < LANES; n++)
        numbers[n] = exp_of(numbers[n]);
    return load(numbers, 0, 0);
}

/* In place the softmax of the first ``count`` numbers of x, and 0 in the rest of the last register; returns the
   log-sum-exp. */
static float softmax(float *x, long count)
{
    long columns = padded(count);
    lanes largest = load_some(x, 0, count, -INFINITY), sums = {0};
    for (long s = LANES; s < columns; s += LANES)
        largest = larger(largest, load_some(x, s, count, -INFINITY));
    float most = largest_of(largest);
    for (long s = 0; s < columns; s += LANES) {
        store(exps_of(load(x, s, 0) - most), x, s, 0);
        lanes power = load_some(x, s, count, 0);
        sums += power;
        store(power, x, s, 0);
    }
    float sum = sum_of(sums), factor = 1 / sum;
    for (long s = 0; s < columns; s += LANES)
        store(load(x, s, 0) * factor, x, s, 0);
    return most + logf(sum);
}

/* Scores x, their log-sum-exp and the gradient d of the weights -> in place the weights, and in d the gradient of the
   scores; 0 in the rest of the last register. */
static void softmax_backward(float *x, float log_sum, float *d, long count)
{
    long columns = padded(count);
    lanes sums = {0};
    for (long s = 0; s < columns; s += LANES) {
        store(exps_of(load(x, s, 0) - log_sum), x, s, 0);
        lanes weights = load_some(x, s, count, 0);
        store(weights, x, s, 0);
        sums += weights * load_some(d, s, count, 0);
    }
    float dot = sum_of(sums); /* weights . d */
    for (long s = 0; s < columns; s += LANES)
        store(load(x, s, 0) * (load_some(d, s, count, 0) - dot), d, s, 0);
}

/* Working memory for one head of one sentence with S keys of width K */
struct head {
    float *keys, *values, *d_keys, *d_values; /* [S, K] */
    float *keys_transposed, *values_transposed; /* [K, padded(S)] */
    float *queries, *out; /* [QUERIES, K] */
    float *weights, *d_weights; /* [QUERIES, padded(S)] */
};

/* Memory for a head of the longest sentence; 0 where there is none. The caller frees what is returned. */
static float *allocate_head(const struct varlen *p, struct head *head)
{
    long longest = 0;
    for (long b = 0; b < p->sentences; b++)
        if (p->keys[b + 1] - p->keys[b] > longest)
            longest = p->keys[b + 1] - p->keys[b];
    long columns = padded(longest), size = columns * p->width;
    float *memory = malloc((6 * size + 2 * QUERIES * (p->width + columns) + 1) * sizeof *memory);
    float **parts[] = {&head->keys,   &head->values,  &head->keys_transposed, &head->values_transposed,
                       &head->d_keys, &head->d_values};
    for (int n = 0; n < 6; n++)
        *parts[n] = memory + n * size;
    head->queries = memory + 6 * size;
    head->out = head->queries + QUERIES * p->width;
    head->weights = head->out + QUERIES * p->width;
    head->d_weights = head->weights + QUERIES * columns;
    return memory;
}

/* How many of the ``keys`` keys of a sentence its first ``queries`` queries attend to */
static long visible_keys(const struct varlen *p, long queries, long keys)
{
    return p->causal && queries < keys ? queries : keys;
}

/* Loads the keys and values of sentence b that the heads of a group share. */
static void load_keys(const struct varlen *p, struct head_rows key, struct head_rows value, long b, long group,
                      struct head *head)
{
    long first = p->keys[b], count = p->keys[b + 1] - first;
    load_head(key, p->bf16, first, count, group, p->width, 1, head->keys);
    load_head(value, p->bf16, first, count, group, p->width, 1, head->values);
    transpose(head->keys, count, p->width, head->keys_transposed);
}

/* Adds the bias to the first ``count`` scores of query ``query`` of sentence b. */
static void add_bias(const struct varlen *p, long b, long head, long query, long count, float *scores)
{
    if (!p->bias.data)
        return;
    const float *bias = p->bias.data + b * p->bias.sentence + head * p->bias.head + query * p->bias.query;
    for (long s = 0; s < count; s++)
        scores[s] += bias[s];
}

/* Forward: query, key, value -> mixed, and ``sums`` [rows, heads], the log-sum-exp of each query's scores, which the
   backward pass needs. Returns 0 without memory for a head, else 1. */
int attend_varlen(const struct varlen *p, struct head_rows query, struct head_rows key, struct head_rows value,
                  struct head_rows mixed, float *sums)
{
    struct head h;
    float *memory = allocate_head(p, &h);
    if (!memory)
        return 0;
    for (long b = 0; b < p->sentences; b++) {
        long first = p->queries[b], queries = p->queries[b + 1] - first, keys = p->keys[b + 1] - p->keys[b];
        long columns = padded(keys), share = p->heads / p->groups;
        for (long head = 0; head < p->heads; head++) {
            if (head % share == 0)
                load_keys(p, key, value, b, head / share, &h);
            for (long t = 0; t < queries; t += QUERIES) {
                long count = queries - t < QUERIES ? queries - t : QUERIES, visible = visible_keys(p, t + count, keys);
                load_head(query, p->bf16, first + t, count, head, p->width, p->scale, h.queries);
                small_product(h.queries, p->width, 1, h.keys_transposed, columns, p->width, count, padded(visible),
                              h.weights, columns, 0);
                for (long r = 0; r < count; r++) {
                    float *w = h.weights + r * columns;
                    long own = visible_keys(p, t + r + 1, keys);
                    add_bias(p, b, head, t + r, own, w);
                    sums[(first + t + r) * p->heads + head] = softmax(w, own);
                    for (long s = padded(own); s < visible; s++)
                        w[s] = 0;
                }
                small_product(h.weights, columns, 1, h.values, p->width, visible, count, p->width, h.out, p->width, 0);
                store_head(h.out, first + t, count, head, p->width, 1, mixed, p->bf16);
            }
        }
    }
    free(memory);
    return 1;
}

/* Backward: the gradient of mixed -> those of query, key and value. Returns 0 without memory for a head, else 1. */
int attend_varlen_backward(const struct varlen *p, struct head_rows query, struct head_rows key, struct head_rows value,
                           const float *sums, struct head_rows gradient, struct head_rows d_query,
                           struct head_rows d_key, struct head_rows d_value)
{
    struct head h;
    float *memory = allocate_head(p, &h);
    if (!memory)
        return 0;
    for (long b = 0; b < p->sentences; b++) {
        long first = p->queries[b], queries = p->queries[b + 1] - first, keys = p->keys[b + 1] - p->keys[b];
        long columns = padded(keys), share = p->heads / p->groups;
        for (long head = 0; head < p->heads; head++) {
            if (head % share == 0) {
                load_keys(p, key, value, b, head / share, &h);
                transpose(h.values, keys, p->width, h.values_transposed);
                memset(h.d_keys, 0, keys * p->width * sizeof *h.d_keys);
                memset(h.d_values, 0, keys * p->width * sizeof *h.d_values);
            }
            for (long t = 0; t < queries; t += QUERIES) {
                long count = queries - t < QUERIES ? queries - t : QUERIES, visible = visible_keys(p, t + count, keys);
                load_head(query, p->bf16, first + t, count, head, p->width, p->scale, h.queries);
                load_head(gradient, p->bf16, first + t, count, head, p->width, 1, h.out);
                small_product(h.queries, p->width, 1, h.keys_transposed, columns, p->width, count, padded(visible),
                              h.weights, columns, 0);
                small_product(h.out, p->width, 1, h.values_transposed, columns, p->width, count, padded(visible),
                              h.d_weights, columns, 0);
                for (long r = 0; r < count; r++) {
                    float *w = h.weights + r * columns, *d = h.d_weights + r * columns;
                    long own = visible_keys(p, t + r + 1, keys);
                    add_bias(p, b, head, t + r, own, w);
                    softmax_backward(w, sums[(first + t + r) * p->heads + head], d, own);
                    for (long s = padded(own); s < visible; s++)
                        w[s] = d[s] = 0;
                }
                small_product(h.weights, 1, columns, h.out, p->width, count, visible, p->width, h.d_values, p->width,
                              1);
                small_product(h.d_weights, 1, columns, h.queries, p->width, count, visible, p->width, h.d_keys,
                              p->width, 1);
                small_product(h.d_weights, columns, 1, h.keys, p->width, visible, count, p->width, h.out, p->width, 0);
                store_head(h.out, first + t, count, head, p->width, p->scale, d_query, p->bf16);
            }
            if ((head + 1) % share == 0) {
                store_head(h.d_keys, p->keys[b], keys, head / share, p->width, 1, d_key, p->bf16);
                store_head(h.d_values, p->keys[b], keys, head / share, p->width, 1, d_value, p->bf16);
            }
        }
    }
    free(memory);
    return 1;
}

#endif
