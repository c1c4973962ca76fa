/* Equation (1), one query after another: softmax(q K^T * scale + mask) V. */

#ifndef REGARD_ATTENTION
#define REGARD_ATTENTION

#include "vectors.h"

/* Keys or values [sentences, heads, tokens, width], in bf16 or fp32. The last axis is contiguous; the strides of the
   others are counted in numbers, not in bytes. */
struct strided {
    char *data;
    long sentence, head, token;
};

/* A mask [sentences, heads, queries, keys] that is added to the scores: 0 or a bias, and -infinity for a key that the
   query may not attend to. The last axis is contiguous; strides may be 0 (the same for all). No mask: ``data`` is 0. */
struct mask {
    const float *data;
    long sentence, head, query;
};

/* The keys or values of the sentences from ``sentence`` on */
static struct strided strided_from(struct strided all, long sentence, int bf16)
{
    all.data += sentence * all.sentence * (bf16 ? 2 : 4);
    return all;
}

/* The mask of the sentences from ``sentence`` on */
static struct mask mask_from(struct mask mask, long sentence)
{
    if (mask.data)
        mask.data += sentence * mask.sentence;
    return mask;
}

/* Attention of one query of one head to ``count`` keys -> mixed [width]; zeros where the mask hides every key.
   ``weights`` is working memory for count + LANES numbers. ``next_keys`` and ``next_values`` belong to the head that is
   computed next: they are only prefetched. */
ALWAYS void attend_one(const float *query, const char *keys, long key_stride, const char *values, long value_stride,
                       int bf16, const float *mask, long count, long width, float scale, const char *next_keys,
                       const char *next_values, float *restrict weights, float *restrict mixed)
{
    long bytes = bf16 ? 2 : 4, skipped = 0;
    float largest = -INFINITY;
    while (mask && count && mask[count - 1] == -INFINITY)
        count--;
    while (mask && skipped < count && mask[skipped] == -INFINITY)
        skipped++;
    if (skipped) { /* as if the hidden keys in front did not exist: sums begin at the first visible key */
        count -= skipped, mask += skipped;
        keys += skipped * key_stride * bytes, values += skipped * value_stride * bytes;
        next_keys += skipped * key_stride * bytes, next_values += skipped * value_stride * bytes;
    }
    for (long s = 0; s < count; s++) {
        weights[s] = -INFINITY;
        if (mask && mask[s] == -INFINITY) /* neither key nor value of a hidden token is read */
            continue;
        for (long at = 0; at < width * bytes; at += 64) { /* one cache line */
            __builtin_prefetch(next_keys + s * key_stride * bytes + at);
            __builtin_prefetch(next_values + s * value_stride * bytes + at);
        }
        lanes product = {0};
        for (long k = 0; k < width; k += LANES)
            product += load(query, k, 0) * load(keys, s * key_stride + k, bf16);
        weights[s] = sum_of(product) * scale + (mask ? mask[s] : 0);
        largest = weights[s] > largest ? weights[s] : largest;
    }
    if (largest == -INFINITY) {
        memset(mixed, 0, width * sizeof *mixed);
        return;
    }
    for (long s = count; s % LANES; s++) /* fill the last register with keys of weight 0 */
        weights[s] = -INFINITY;
    lanes sums = {0};
    for (long s = 0; s < count; s += LANES) {
        for (long n = s; n < s + LANES; n++)
            weights[n] = weights[n] == -INFINITY ? 0 : exp_of(weights[n] - largest);
        sums += load(weights, s, 0);
    }
    float sum = sum_of(sums);
    for (long k = 0; k < width; k += LANES) {
        lanes total = {0};
        for (long s = 0; s < count; s++)
            if (weights[s] != 0)
                total += weights[s] * load(values, s * value_stride + k, bf16);
        total /= sum;
        memcpy(mixed + k, &total, sizeof total);
    }
}

/* The rows of a batch that are computed: row r is query indices[r] % queries of sentence indices[r] / queries. Rows
   that are left out (padding, finished hypotheses) cost nothing. The indices ascend. */
struct rows {
    const int64_t *indices;
    long count, queries;
};

/* How many rows from ``first`` on belong to the same sentence as row ``first`` */
static long of_one_sentence(struct rows rows, long first)
{
    long end = first + 1;
    while (end < rows.count && rows.indices[end] / rows.queries == rows.indices[first] / rows.queries)
        end++;
    return end - first;
}

/* Attention of all rows and heads: query, its rows ``query_stride`` apart -> mixed, both [rows, heads * width]. Every
   ``group`` heads share keys and values. A sentence has ``count`` keys. With ``keys_are_rows`` there is no cache: keys
   and values were computed beside the queries, a sentence has as many of them as it has rows, and the stride
   ``sentence`` of ``keys`` and ``values`` leads from row to row. ``weights`` is working memory, as in attend_one. */
static void attend(const float *query, long query_stride, struct rows rows, struct strided keys, struct strided values,
                   int bf16, int keys_are_rows, struct mask mask, long heads, long group, long count, long width,
                   float scale, float *weights, float *mixed)
{
    long bytes = bf16 ? 2 : 4;
    for (long first = 0, size; first < rows.count; first += size) {
        size = of_one_sentence(rows, first);
        long b = rows.indices[first] / rows.queries, last = first + size == rows.count;
        long next = last ? b : rows.indices[first + size] / rows.queries, visible = keys_are_rows ? size : count;
        struct strided its_keys = strided_from(keys, keys_are_rows ? first : b, bf16);
        struct strided its_values = strided_from(values, keys_are_rows ? first : b, bf16);
        struct strided next_keys = last ? its_keys : strided_from(keys, keys_are_rows ? first + size : next, bf16);
        struct strided next_values =
            last ? its_values : strided_from(values, keys_are_rows ? first + size : next, bf16);
        struct mask its_mask = mask_from(mask, b);
        for (long h = 0; h < heads; h++) {
            const char *k = its_keys.data + h / group * keys.head * bytes, *next_k = k + keys.head * bytes;
            const char *v = its_values.data + h / group * values.head * bytes, *next_v = v + values.head * bytes;
            if (h + 1 == heads)
                next_k = next_keys.data, next_v = next_values.data;
            for (long r = first; r < first + size; r++) {
                const float *q = query + r * query_stride + h * width;
                const float *m = 0;
                if (its_mask.data)
                    m = its_mask.data + h * mask.head + rows.indices[r] % rows.queries * mask.query;
                float *out = mixed + (r * heads + h) * width;
#define ATTEND(bf16, width) \
    attend_one(q, k, keys.token, v, values.token, bf16, m, visible, width, scale, next_k, next_v, weights, out)
                /* With type and width known to the compiler attend_one is twice as fast. */
                if (bf16 && width == 32)
                    ATTEND(1, 32);
                else if (bf16 && width == 64)
                    ATTEND(1, 64);
                else if (bf16)
                    ATTEND(1, width);
                else if (width == 32)
                    ATTEND(0, 32);
                else if (width == 64)
                    ATTEND(0, 64);
                else
                    ATTEND(0, width);
#undef ATTEND
            }
        }
    }
}

#endif
