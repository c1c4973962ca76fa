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
    long bytes = halves ? 2 : 4;
    float most = -INFINITY;
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

/* query [sentences, queries, heads * width], its rows ``query_step`` apart -> mixed [sentences, queries, heads * width].
   Of ``heads`` each ``group`` share keys and values, of which there are ``count`` a sentence. */
static void attend(const float *query, long query_step, struct kept keys, struct kept values, int halves,
                   struct mask mask, long sentences, long queries, long heads, long group, long count, long width,
                   float scale, float *weights, float *mixed)
{
    long bytes = halves ? 2 : 4;
    for (long b = 0; b < sentences; b++)
        for (long h = 0; h < heads; h++)
            for (long i = 0; i < queries; i++) {
                const float *one = query + (b * queries + i) * query_step + h * width;
                const char *its_keys = keys.at + (b * keys.sentence + h / group * keys.head) * bytes;
                const char *its_values = values.at + (b * values.sentence + h / group * values.head) * bytes;
                const float *its_mask = mask.at ? mask_from(mask, b).at + h * mask.head + i * mask.query : 0;
                /* the next head's, or the next sentence's first head's; the last of all has none */
                int over = h + 1 == heads, end = over && b + 1 == sentences;
                const char *next_keys = end ? its_keys : over ? kept_from(keys, b + 1, halves).at
                                                              : its_keys + keys.head * bytes;
                const char *next_values = end ? its_values : over ? kept_from(values, b + 1, halves).at
                                                                  : its_values + values.head * bytes;
                float *out = mixed + ((b * queries + i) * heads + h) * width;
#define ATTEND(halves, width) \
    attend_one(one, its_keys, keys.token, its_values, values.token, halves, its_mask, count, width, scale, next_keys, \
               next_values, weights, out)
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

#endif
