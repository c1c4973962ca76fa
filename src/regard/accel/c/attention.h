/* Equation (1), query by query: softmax(q K^T * scale + mask) V. */

#ifndef REGARD_ATTENTION
#define REGARD_ATTENTION

#include "vectors.h"

/* Keys or values [sentences, heads, tokens, width], in bf16 if ``halves``; steps are counted in numbers. */
struct kept {
    char *at;
    long sentence, head, token;
};

/* [sentences, heads, queries, keys] to be added to the scores, whose steps may be 0; ``at`` 0: nothing is */
struct mask {
    const float *at;
    long sentence, head, query;
};

/* The same from a sentence on */
static struct kept kept_from(struct kept kept, long sentence, int halves)
{
    kept.at += sentence * kept.sentence * (halves ? 2 : 4);
    return kept;
}

static struct mask mask_from(struct mask mask, long sentence)
{
    if (mask.at)
        mask.at += sentence * mask.sentence;
    return mask;
}

/* One query of ``width`` numbers, zeros where the mask leaves nothing; ``weights`` has room for count + LANES. */
ALWAYS void attend_one(const float *query, const char *keys, long key_step, const char *values, long value_step,
                       int halves, const float *mask, long count, long width, float scale, const char *next_keys,
                       const char *next_values, float *restrict weights, float *restrict mixed)
{
    long bytes = halves ? 2 : 4, unseen = 0;
    float most = -INFINITY;
    while (mask && count && mask[count - 1] == -INFINITY)
        count--;
    while (mask && unseen < count && mask[unseen] == -INFINITY)
        unseen++;
    if (unseen) { /* of those who came before: what is left is added up as if nothing stood there */
        count -= unseen, mask += unseen;
        keys += unseen * key_step * bytes, values += unseen * value_step * bytes;
        next_keys += unseen * key_step * bytes, next_values += unseen * value_step * bytes;
    }
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
    for (long s = count; s % LANES; s++) /* whole registers: what is over weighs nothing */
        weights[s] = -INFINITY;
    lanes sums = {0};
    for (long s = 0; s < count; s += LANES) {
        for (long n = s; n < s + LANES; n++)
            weights[n] = weights[n] == -INFINITY ? 0 : exp_of(weights[n] - most);
        sums += load(weights, s, 0);
    }
    float sum = sum_of(sums);
    for (long k = 0; k < width; k += LANES) {
        lanes total = {0};
        for (long s = 0; s < count; s++)
            if (weights[s] != 0)
                total += weights[s] * load(values, s * value_step + k, halves);
        total /= sum;
        memcpy(mixed + k, &total, sizeof total);
    }
}

/* Which rows there are, of those that the sentences might have: row r is query places[r] % queries of sentence
   places[r] / queries, and places ascend. */
struct rows {
    const int64_t *places;
    long count, queries;
};

/* How many rows from ``first`` on are of one sentence */
static long of_one_sentence(struct rows rows, long first)
{
    long end = first + 1;
    while (end < rows.count && rows.places[end] / rows.queries == rows.places[first] / rows.queries)
        end++;
    return end - first;
}

/* query [rows, heads * width], its rows ``query_step`` apart -> mixed [rows, heads * width]. Of ``heads`` each ``group``
   share keys and values, of which there are ``count`` a sentence; if they are ``among`` the rows, a sentence has
   as many as it has rows, and the steps from sentence to sentence are from row to row. */
static void attend(const float *query, long query_step, struct rows rows, struct kept keys, struct kept values,
                   int halves, int among, struct mask mask, long heads, long group, long count, long width, float scale,
                   float *weights, float *mixed)
{
    long bytes = halves ? 2 : 4;
    for (long first = 0, size; first < rows.count; first += size) {
        size = of_one_sentence(rows, first);
        long b = rows.places[first] / rows.queries, last = first + size == rows.count;
        long next = last ? b : rows.places[first + size] / rows.queries, seen = among ? size : count;
        struct kept its_keys = kept_from(keys, among ? first : b, halves);
        struct kept its_values = kept_from(values, among ? first : b, halves);
        struct kept next_keys = last ? its_keys : kept_from(keys, among ? first + size : next, halves);
        struct kept next_values = last ? its_values : kept_from(values, among ? first + size : next, halves);
        struct mask its_mask = mask_from(mask, b);
        for (long h = 0; h < heads; h++) {
            const char *k = its_keys.at + h / group * keys.head * bytes, *next_k = k + keys.head * bytes;
            const char *v = its_values.at + h / group * values.head * bytes, *next_v = v + values.head * bytes;
            if (h + 1 == heads)
                next_k = next_keys.at, next_v = next_values.at;
            for (long r = first; r < first + size; r++) {
                const float *q = query + r * query_step + h * width;
                const float *m = 0;
                if (its_mask.at)
                    m = its_mask.at + h * mask.head + rows.places[r] % rows.queries * mask.query;
                float *out = mixed + (r * heads + h) * width;
#define ATTEND(halves, width) \
    attend_one(q, k, keys.token, v, values.token, halves, m, seen, width, scale, next_k, next_v, weights, out)
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
        }
    }
}

#endif
