/* Equation (1) for sentences that stand one after another without padding, there and back: training on a CPU.

   Of one head of one sentence all numbers fit a near cache, and are there in fp32 whatever they come in; one block of
   queries after another meets the keys. On the way back the weights are made again, from the logarithm of each query's
   sum: nothing is kept whose size is queries times keys (Dao et al. 2022). */

#ifndef REGARD_VARLEN
#define REGARD_VARLEN

#include "vectors.h"

/* [rows, heads * width], rows ``step`` numbers apart */
struct table {
    void *at;
    long step;
};

struct varlen {
    const int64_t *queries, *keys; /* [sentences + 1] the row where each sentence begins */
    long sentences, heads, groups, width; /* each heads / groups of the heads share keys and values */
    int causal, halves; /* query i sees keys 0 ... i; the tables are in bf16 */
    float scale;
};

enum { QUERIES = 32 }; /* of a block */

/* Numbers in as many registers as hold ``count`` */
static long padded(long count)
{
    return (count + LANES - 1) / LANES * LANES;
}

/* c[r, n] (+)= sum of a[r * across + k * along] * b[k, n] over k < inner, for ``rows`` rows and ``wide`` registers */
ALWAYS void small_tile(int rows, int wide, const float *a, long across, long along, const float *b, long b_step,
                       long inner, float *c, long c_step, int more)
{
    lanes sums[8][2];
    for (int r = 0; r < rows; r++)
        for (int w = 0; w < wide; w++)
            sums[r][w] = more ? load(c, r * c_step + w * LANES, 0) : (lanes){0};
    for (long k = 0; k < inner; k++)
        for (int r = 0; r < rows; r++)
            for (int w = 0; w < wide; w++)
                sums[r][w] += a[r * across + k * along] * load(b, k * b_step + w * LANES, 0);
    for (int r = 0; r < rows; r++)
        for (int w = 0; w < wide; w++)
            store(sums[r][w], c, r * c_step + w * LANES, 0);
}

/* The same for all rows and columns; of columns there are whole registers. */
static void small_product(const float *a, long across, long along, const float *b, long b_step, long inner, long rows,
                          long columns, float *c, long c_step, int more)
{
    for (long n = 0; n < columns; n += 2 * LANES) {
        long r = 0;
#define SMALL(size, wide) \
    for (; rows - r >= size; r += size) \
        small_tile(size, wide, a + r * across, across, along, b + n, b_step, inner, c + r * c_step + n, c_step, more)
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

/* One head's numbers of ``count`` rows from ``first`` on, times ``factor`` -> [count, width] */
static void take(struct table from, int halves, long first, long count, long head, long width, float factor, float *to)
{
    for (long r = 0; r < count; r++)
        for (long k = 0; k < width; k += LANES) {
            long at = (first + r) * from.step + head * width + k;
            __builtin_prefetch((char *)from.at + (at + width) * (halves ? 2 : 4)); /* the head that comes next */
            store(load(from.at, at, halves) * factor, to, r * width + k, 0);
        }
}

/* The way back of ``take`` */
static void put(const float *from, long first, long count, long head, long width, float factor, struct table to,
                int halves)
{
    for (long r = 0; r < count; r++)
        for (long k = 0; k < width; k += LANES) {
            long at = (first + r) * to.step + head * width + k;
            __builtin_prefetch((char *)to.at + (at + width) * (halves ? 2 : 4), 1);
            store(load(from, r * width + k, 0) * factor, to.at, at, halves);
        }
}

/* [count, width] -> [width, padded(count)]; what is over is not set. */
static void turn_over(const float *x, long count, long width, float *to)
{
    long columns = padded(count);
    for (long s = 0; s < count; s += LANES)
        for (long k = 0; k < width; k += LANES)
            turn_over_square(x + s * width + k, width, to + k * columns + s, columns);
}

/* Numbers i ... of x, but ``rest`` from ``count`` on */
ALWAYS lanes load_some(const float *x, long i, long count, float rest)
{
    static const int32_t numbers[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    words bits, others, number;
    memcpy(&number, numbers, sizeof number);
    words there = number < (words){0} + (int32_t)(count - i);
    lanes found = load(x, i, 0), rests = (lanes){0} + rest;
    memcpy(&bits, &found, sizeof bits);
    memcpy(&others, &rests, sizeof others);
    bits = (bits & there) | (others & ~there);
    memcpy(&found, &bits, sizeof found);
    return found;
}

ALWAYS lanes larger(lanes x, lanes y)
{
    words more = x > y, of_x, of_y;
    memcpy(&of_x, &x, sizeof x);
    memcpy(&of_y, &y, sizeof y);
    of_x = (of_x & more) | (of_y & ~more);
    memcpy(&x, &of_x, sizeof x);
    return x;
}

ALWAYS float largest_of(lanes x)
{
    float parts[LANES];
    memcpy(parts, &x, sizeof x);
    for (int half = LANES / 2; half; half /= 2)
        for (int n = 0; n < half; n++)
            parts[n] = parts[n] > parts[n + half] ? parts[n] : parts[n + half];
    return parts[0];
}

ALWAYS lanes exps_of(lanes x)
{
    float numbers[LANES];
    memcpy(numbers, &x, sizeof x);
    for (int n = 0; n < LANES; n++)
        numbers[n] = exp_of(numbers[n]);
    return load(numbers, 0, 0);
}

/* The first ``count`` numbers of x become their softmax, and those up to whole registers 0. The logarithm of their sum
   before. */
static float softmax(float *x, long count)
{
    long columns = padded(count);
    lanes most = load_some(x, 0, count, -INFINITY), sums = {0};
    for (long s = LANES; s < columns; s += LANES)
        most = larger(most, load_some(x, s, count, -INFINITY));
    float top = largest_of(most);
    for (long s = 0; s < columns; s += LANES) {
        store(exps_of(load(x, s, 0) - top), x, s, 0);
        lanes power = load_some(x, s, count, 0);
        sums += power;
        store(power, x, s, 0);
    }
    float sum = sum_of(sums), share = 1 / sum;
    for (long s = 0; s < columns; s += LANES)
        store(load(x, s, 0) * share, x, s, 0);
    return top + logf(sum);
}

/* Scores x, the logarithm of their sum and the gradient d of the weights -> in place the weights, and in d the scores'
   gradient; 0 from ``count`` on up to whole registers. */
static void softmax_back(float *x, float norm, float *d, long count)
{
    long columns = padded(count);
    lanes sums = {0};
    for (long s = 0; s < columns; s += LANES) {
        store(exps_of(load(x, s, 0) - norm), x, s, 0);
        lanes weights = load_some(x, s, count, 0);
        store(weights, x, s, 0);
        sums += weights * load_some(d, s, count, 0);
    }
    float together = sum_of(sums);
    for (long s = 0; s < columns; s += LANES)
        store(load(x, s, 0) * (load_some(d, s, count, 0) - together), d, s, 0);
}

/* Room for one head of one sentence of up to ``keys`` keys */
struct head {
    float *keys, *values, *keys_over, *values_over, *d_keys, *d_values; /* [S, K], of the middle two [K, padded(S)] */
    float *queries, *out; /* [QUERIES, K] */
    float *weights, *d_weights; /* [QUERIES, padded(S)] */
};

static float *room_for_head(const struct varlen *p, struct head *head)
{
    long most = 0;
    for (long b = 0; b < p->sentences; b++)
        if (p->keys[b + 1] - p->keys[b] > most)
            most = p->keys[b + 1] - p->keys[b];
    long columns = padded(most), size = columns * p->width;
    float *room = malloc((6 * size + 2 * QUERIES * (p->width + columns) + 1) * sizeof *room);
    float **parts[] = {&head->keys, &head->values, &head->keys_over, &head->values_over, &head->d_keys,
                       &head->d_values};
    for (int n = 0; n < 6; n++)
        *parts[n] = room + n * size;
    head->queries = room + 6 * size;
    head->out = head->queries + QUERIES * p->width;
    head->weights = head->out + QUERIES * p->width;
    head->d_weights = head->weights + QUERIES * columns;
    return room;
}

/* The keys that the first ``queries`` queries of a sentence see, of ``keys`` */
static long seen_by(const struct varlen *p, long queries, long keys)
{
    return p->causal && queries < keys ? queries : keys;
}

/* The keys and values of sentence ``b`` that the heads of a group share */
static void take_keys(const struct varlen *p, struct table key, struct table value, long b, long group,
                      struct head *head)
{
    long first = p->keys[b], count = p->keys[b + 1] - first;
    take(key, p->halves, first, count, group, p->width, 1, head->keys);
    take(value, p->halves, first, count, group, p->width, 1, head->values);
    turn_over(head->keys, count, p->width, head->keys_over);
}

/* query, key, value -> mixed, and ``sums`` [rows, heads], the logarithms of the queries' sums; 0 without memory for it */
int attend_varlen(const struct varlen *p, struct table query, struct table key, struct table value, struct table mixed,
                  float *sums)
{
    struct head h;
    float *room = room_for_head(p, &h);
    if (!room)
        return 0;
    for (long b = 0; b < p->sentences; b++) {
        long first = p->queries[b], queries = p->queries[b + 1] - first, keys = p->keys[b + 1] - p->keys[b];
        long columns = padded(keys), share = p->heads / p->groups;
        for (long head = 0; head < p->heads; head++) {
            if (head % share == 0)
                take_keys(p, key, value, b, head / share, &h);
            for (long t = 0; t < queries; t += QUERIES) {
                long count = queries - t < QUERIES ? queries - t : QUERIES, seen = seen_by(p, t + count, keys);
                take(query, p->halves, first + t, count, head, p->width, p->scale, h.queries);
                small_product(h.queries, p->width, 1, h.keys_over, columns, p->width, count, padded(seen), h.weights,
                              columns, 0);
                for (long r = 0; r < count; r++) {
                    float *w = h.weights + r * columns;
                    long its = seen_by(p, t + r + 1, keys);
                    sums[(first + t + r) * p->heads + head] = softmax(w, its);
                    for (long s = padded(its); s < seen; s++)
                        w[s] = 0;
                }
                small_product(h.weights, columns, 1, h.values, p->width, seen, count, p->width, h.out, p->width, 0);
                put(h.out, first + t, count, head, p->width, 1, mixed, p->halves);
            }
        }
    }
    free(room);
    return 1;
}

/* The gradient of mixed -> those of query, key and value; 0 without memory for it */
int attend_varlen_back(const struct varlen *p, struct table query, struct table key, struct table value,
                       const float *sums, struct table gradient, struct table d_query, struct table d_key,
                       struct table d_value)
{
    struct head h;
    float *room = room_for_head(p, &h);
    if (!room)
        return 0;
    for (long b = 0; b < p->sentences; b++) {
        long first = p->queries[b], queries = p->queries[b + 1] - first, keys = p->keys[b + 1] - p->keys[b];
        long columns = padded(keys), share = p->heads / p->groups;
        for (long head = 0; head < p->heads; head++) {
            if (head % share == 0) {
                take_keys(p, key, value, b, head / share, &h);
                turn_over(h.values, keys, p->width, h.values_over);
                memset(h.d_keys, 0, keys * p->width * sizeof *h.d_keys);
                memset(h.d_values, 0, keys * p->width * sizeof *h.d_values);
            }
            for (long t = 0; t < queries; t += QUERIES) {
                long count = queries - t < QUERIES ? queries - t : QUERIES, seen = seen_by(p, t + count, keys);
                take(query, p->halves, first + t, count, head, p->width, p->scale, h.queries);
                take(gradient, p->halves, first + t, count, head, p->width, 1, h.out);
                small_product(h.queries, p->width, 1, h.keys_over, columns, p->width, count, padded(seen), h.weights,
                              columns, 0);
                small_product(h.out, p->width, 1, h.values_over, columns, p->width, count, padded(seen), h.d_weights,
                              columns, 0);
                for (long r = 0; r < count; r++) {
                    float *w = h.weights + r * columns, *d = h.d_weights + r * columns;
                    long its = seen_by(p, t + r + 1, keys);
                    softmax_back(w, sums[(first + t + r) * p->heads + head], d, its);
                    for (long s = padded(its); s < seen; s++)
                        w[s] = d[s] = 0;
                }
                small_product(h.weights, 1, columns, h.out, p->width, count, seen, p->width, h.d_values, p->width, 1);
                small_product(h.d_weights, 1, columns, h.queries, p->width, count, seen, p->width, h.d_keys, p->width,
                              1);
                small_product(h.d_weights, columns, 1, h.keys, p->width, seen, count, p->width, h.out, p->width, 0);
                put(h.out, first + t, count, head, p->width, p->scale, d_query, p->halves);
            }
            if ((head + 1) % share == 0) {
                put(h.d_keys, p->keys[b], keys, head / share, p->width, 1, d_key, p->halves);
                put(h.d_values, p->keys[b], keys, head / share, p->width, 1, d_value, p->halves);
            }
        }
    }
    free(room);
    return 1;
}

#endif
