/* Figure 1: a stack of encoder or decoder layers in one call, for decoding on a CPU; stack.py compiles and calls it.

   All numbers are fp32 but the weights, and the keys and values that are kept, and rows are contiguous. Nothing here
   depends on how many rows there are: a sentence gets the same bits alone and among others. */

#include "attention.h"
#include "loss.h"
#include "products.h"
#include "ranking.h"
#include "rows.h"
#include "varlen.h"

#include <time.h>

struct attention {
    struct linear input, output; /* input: queries, keys and values; of a memory the queries alone */
    struct norm norm;
};

struct layer {
    struct attention own, cross; /* cross.input.inputs 0: there is none */
    struct linear input, gate, output; /* feed-forward; gate.inputs 0: there is none */
    struct norm norm;
};

struct stack {
    long layers, width, heads, groups, head_width, inner; /* inner: the feed-forward network's width */
    int norm_first, activation;
    const struct layer *layer;
    struct norm last;
};

/* What is attended to in one layer. */
struct seen {
    struct kept keys, values;
};

struct call {
    struct rows rows; /* all of a sentence or its first ones, but where keys are kept any of them */
    float *x; /* [rows, width], in place */
    int halves; /* what is kept is in bf16 */
    const struct seen *own; /* of each layer; 0: nothing is kept, and queries see one another */
    const int64_t *slots; /* [sentences, queries] where their keys and values are kept */
    long keys; /* slots that are looked at */
    struct mask mask;
    const struct seen *memory; /* of each layer */
    long memory_keys;
    struct mask memory_mask;
    const float *cosine, *sine; /* [sentences or 1, queries, head_width / 2] for rotation, or 0 */
    long turn; /* from sentence to sentence in them */
};

/* Room for the rows of a block of sentences */
struct room {
    float *y, *z, *projected, *mixed, *inner, *gate, *weights;
    uint32_t *cut;
};

/* Seconds of this process so far, for those who ask where the time goes */
enum part { PRODUCTS, ATTENTION, BETWEEN, PARTS };
static double spent[PARTS], last_look;

static void look(int part)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double seconds = now.tv_sec + 1e-9 * now.tv_nsec;
    if (part < PARTS)
        spent[part] += seconds - last_look;
    last_look = seconds;
}

const double *seconds_spent(void)
{
    return spent;
}

static void product(const struct linear *w, const float *x, long rows, float *out, const struct room *room)
{
    look(BETWEEN);
    multiply(w, x, rows, out, room->cut);
    look(PRODUCTS);
}

/* Turns the pairs (x_i, x_{i + width / 2}) of each head (Su et al. 2021). */
static void rotate(float *x, long heads, long width, const float *cosine, const float *sine)
{
    for (long h = 0; h < heads; h++, x += width)
        for (long i = 0; i < width / 2; i++) {
            float one = x[i], other = x[i + width / 2];
            x[i] = one * cosine[i] - other * sine[i];
            x[i + width / 2] = other * cosine[i] + one * sine[i];
        }
}

/* Writes the heads [heads, width] of one token into its slot. */
static void keep(struct kept to, int halves, long slot, const float *x, long heads, long width)
{
    for (long h = 0; h < heads; h++, x += width) {
        long at = h * to.head + slot * to.token;
        if (halves)
            for (long k = 0; k < width; k++)
                ((uint16_t *)to.at)[at + k] = half_of(x[k]);
        else
            memcpy((float *)to.at + at, x, width * sizeof *x);
    }
}

/* What a sub-layer reads: norm(x), or x where the norm comes after it. */
static const float *entering(const struct stack *s, const struct norm *norm, const float *x, long rows, float *y)
{
    if (!s->norm_first)
        return x;
    normalize(norm, x, rows, s->width, y);
    return y;
}

/* What it has found is added to x, which then is normed, unless that came before. */
static void leaving(const struct stack *s, const struct norm *norm, float *x, const float *found, long rows)
{
    add(x, found, rows * s->width);
    if (!s->norm_first)
        normalize(norm, x, rows, s->width, x);
}

/* x [rows, width]: whole sentences of those of the call; likewise below */
static void attend_to_own(const struct stack *s, const struct attention *a, const struct call *c,
                          const struct seen *kept, struct rows rows, float *x, const struct room *room)
{
    long width = s->head_width, step = a->input.outputs;
    int halves = kept && c->halves;
    struct seen among = {
        {(char *)(room->projected + s->heads * width), step, width, step},
        {(char *)(room->projected + (s->heads + s->groups) * width), step, width, step},
    };
    struct seen seen = kept ? *kept : among;
    product(&a->input, entering(s, &a->norm, x, rows.count, room->y), rows.count, room->projected, room);
    for (long r = 0; r < rows.count; r++) {
        float *query = room->projected + r * step, *key = query + s->heads * width, *value = key + s->groups * width;
        long b = rows.places[r] / rows.queries, i = rows.places[r] % rows.queries;
        if (c->cosine) {
            long turn = b * c->turn + i * (width / 2);
            rotate(query, s->heads + s->groups, width, c->cosine + turn, c->sine + turn);
        }
        if (kept) {
            long slot = c->slots[rows.places[r]];
            keep(kept_from(seen.keys, b, halves), halves, slot, key, s->groups, width);
            keep(kept_from(seen.values, b, halves), halves, slot, value, s->groups, width);
        }
    }
    attend(room->projected, step, rows, seen.keys, seen.values, halves, !kept, c->mask, s->heads, s->heads / s->groups,
           c->keys, width, 1 / sqrtf(width), room->weights, room->mixed);
    look(ATTENTION);
    product(&a->output, room->mixed, rows.count, room->z, room);
    leaving(s, &a->norm, x, room->z, rows.count);
}

static void attend_to_memory(const struct stack *s, const struct attention *a, const struct call *c,
                             const struct seen *memory, struct rows rows, float *x, const struct room *room)
{
    long width = s->head_width;
    product(&a->input, entering(s, &a->norm, x, rows.count, room->y), rows.count, room->projected, room);
    attend(room->projected, a->input.outputs, rows, memory->keys, memory->values, c->halves, 0, c->memory_mask, s->heads,
           s->heads / s->groups, c->memory_keys, width, 1 / sqrtf(width), room->weights, room->mixed);
    look(ATTENTION);
    product(&a->output, room->mixed, rows.count, room->z, room);
    leaving(s, &a->norm, x, room->z, rows.count);
}

/* Equation (2) */
static void feed_forward(const struct stack *s, const struct layer *layer, long rows, float *x, const struct room *room)
{
    const float *in = entering(s, &layer->norm, x, rows, room->y);
    product(&layer->input, in, rows, room->inner, room);
    if (layer->gate.inputs)
        product(&layer->gate, in, rows, room->gate, room);
    activate(s->activation, room->inner, layer->gate.inputs ? room->gate : 0, rows * s->inner);
    product(&layer->output, room->inner, rows, room->z, room);
    leaving(s, &layer->norm, x, room->z, rows);
}

/* The rows from ``first`` on that are computed together: whole sentences, and of short ones up to BLOCK rows. */
static struct rows block(struct rows rows, long first)
{
    long end = first;
    for (long size; end < rows.count; end += size) {
        size = of_one_sentence(rows, end);
        if (end > first && end + size - first > BLOCK)
            break;
    }
    return (struct rows){rows.places + first, end - first, rows.queries};
}

/* The layers one after another, and in each a block of sentences after another: what is between its sub-layers stays
   near. 0 where there is no memory for that. */
int run(const struct stack *s, const struct call *c)
{
    long rows = c->rows.queries > BLOCK ? c->rows.queries : BLOCK;
    long joined = (s->heads + 2 * s->groups) * s->head_width, mixed = s->heads * s->head_width;
    long keys = c->keys > c->memory_keys ? c->keys : c->memory_keys;
    long widest = s->width > s->inner ? s->width : s->inner;
    widest = widest > mixed ? widest : mixed;
    long size = rows * (2 * s->width + joined + mixed + 2 * s->inner) + keys + LANES + BLOCK * widest;
    float *room = malloc(size * sizeof *room);
    if (!room)
        return 0;
    struct room parts = {.y = room};
    parts.z = parts.y + rows * s->width;
    parts.projected = parts.z + rows * s->width;
    parts.mixed = parts.projected + rows * joined;
    parts.inner = parts.mixed + rows * mixed;
    parts.gate = parts.inner + rows * s->inner;
    parts.cut = (uint32_t *)(parts.gate + rows * s->inner);
    parts.weights = (float *)parts.cut + BLOCK * widest;
    look(PARTS);
    for (long l = 0; l < s->layers; l++)
        for (long first = 0; first < c->rows.count;) {
            const struct layer *layer = &s->layer[l];
            struct rows some = block(c->rows, first);
            float *x = c->x + first * s->width;
            attend_to_own(s, &layer->own, c, c->own ? &c->own[l] : 0, some, x, &parts);
            if (layer->cross.input.inputs)
                attend_to_memory(s, &layer->cross, c, &c->memory[l], some, x, &parts);
            feed_forward(s, layer, some.count, x, &parts);
            first += some.count;
        }
    if (s->last.gain)
        normalize(&s->last, c->x, c->rows.count, s->width, c->x);
    look(BETWEEN);
    free(room);
    return 1;
}

/* Keys and values of a memory [sentences, tokens, width], of which each sentence has its first lengths[b] tokens: what
   is after them is not written. 0 where there is no memory for it. */
int project(const struct linear *w, const float *memory, long sentences, long tokens, const int64_t *lengths,
            struct seen to, int halves, long groups, long head_width)
{
    float *found = malloc(BLOCK * (w->outputs + w->inputs) * sizeof *found);
    if (!found)
        return 0;
    for (long b = 0; b < sentences; b++, memory += tokens * w->inputs)
        for (long first = 0; first < lengths[b]; first += BLOCK) {
            long count = lengths[b] - first < BLOCK ? lengths[b] - first : BLOCK;
            multiply(w, memory + first * w->inputs, count, found, (uint32_t *)(found + BLOCK * w->outputs));
            for (long r = 0; r < count; r++) {
                const float *key = found + r * w->outputs;
                keep(kept_from(to.keys, b, halves), halves, first + r, key, groups, head_width);
                keep(kept_from(to.values, b, halves), halves, first + r, key + groups * head_width, groups, head_width);
            }
        }
    free(found);
    return 1;
}

/* One linear layer by itself, x [rows, inputs] -> out [rows, outputs]; 0 where there is no memory for it */
int run_linear(const struct linear *w, const float *x, long rows, float *out)
{
    uint32_t *cut = malloc(BLOCK * w->inputs * sizeof *cut);
    if (!cut)
        return 0;
    multiply(w, x, rows, out, cut);
    free(cut);
    return 1;
}
