/* Figure 1: a stack of encoder or decoder layers in one call, for inference on a CPU. accel/shared_library.py compiles
   this file, which includes all others; accel/native.py and accel/stack.py call what it exports.

   Activations are fp32 and rows contiguous; weights may be bf16 or int8, and a cache of keys and values bf16. No result
   depends on how many rows there are: a sentence gets the same bits alone and in a batch. */

#include "attention.h"
#include "loss.h"
#include "products.h"
#include "ranking.h"
#include "rows.h"
#include "varlen.h"

#include <stddef.h>
#include <time.h>

struct attention {
    struct linear input, output; /* input: queries, keys and values in one product; in cross-attention queries alone */
    struct norm norm;
};

struct layer {
    struct attention self_attention, cross_attention; /* cross_attention.input.inputs 0: there is none */
    struct linear input, gate, output; /* the feed-forward network; gate.inputs 0: there is none */
    struct norm norm; /* of the feed-forward network */
};

struct stack {
    long layers, width, heads, groups, head_width, inner; /* inner: the feed-forward network's width F */
    int norm_first, activation; /* norm_first: order "pre", else "post" */
    const struct layer *layer;
    struct norm final_norm;
};

/* The keys and values of one layer, [sentences, groups, tokens, head_width] */
struct key_values {
    struct strided keys, values;
};

/* One forward pass of a stack */
struct call {
    struct rows rows; /* without a cache: all or the first tokens of each sentence; with one: any of the queries */
    float *x; /* [rows, width], in place */
    int bf16; /* keys and values, of cache and memory, are in bf16 */
    const struct key_values *cache; /* of each layer; 0: none, and the tokens of a sentence attend to one another */
    const int64_t *slots; /* [sentences, queries]: where in the cache a token's keys and values are written */
    long keys; /* how many slots are read */
    struct mask mask;
    const struct key_values *memory; /* of each layer, for cross-attention */
    long memory_keys;
    struct mask memory_mask;
    const float *cosine, *sine; /* rotary positions: [sentences or 1, queries, head_width / 2], or 0 */
    long rotation_stride; /* from one sentence to the next in cosine and sine; 0: the same for all */
};

/* Working memory for the rows of one block */
struct buffers {
    float *normed, *result, *projected, *mixed, *inner, *gate, *weights;
    uint32_t *converted; /* the input of a product, in the type of its weights */
};

/* The seconds that this process has spent in ``run`` so far, by part; the profile of decoding reads them. */
enum part { PRODUCTS, ATTENTION, NORMS, PARTS };
static double seconds[PARTS], last_time;

/* Counts the time since the last call for ``part``; with PARTS only the clock starts. */
static void count_time(int part)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double time = now.tv_sec + 1e-9 * now.tv_nsec;
    if (part < PARTS)
        seconds[part] += time - last_time;
    last_time = time;
}

const double *seconds_spent(void)
{
    return seconds;
}

static void product(const struct linear *w, const float *x, long rows, float *out, const struct buffers *buffers)
{
    count_time(NORMS);
    multiply(w, x, rows, out, buffers->converted);
    count_time(PRODUCTS);
}

/* Rotary positions: rotates the pairs (x_i, x_{i + width / 2}) of each head of one token (Su et al. 2021). */
static void rotate(float *x, long heads, long width, const float *cosine, const float *sine)
{
    for (long h = 0; h < heads; h++, x += width)
        for (long i = 0; i < width / 2; i++) {
            float one = x[i], other = x[i + width / 2];
            x[i] = one * cosine[i] - other * sine[i];
            x[i + width / 2] = other * cosine[i] + one * sine[i];
        }
}

/* Writes the keys or values x [heads, width] of one token into its slot. */
static void write_slot(struct strided to, int bf16, long slot, const float *x, long heads, long width)
{
    for (long h = 0; h < heads; h++, x += width) {
        long at = h * to.head + slot * to.token;
        if (bf16)
            for (long k = 0; k < width; k++)
                ((uint16_t *)to.data)[at + k] = to_bf16(x[k]);
        else
            memcpy((float *)to.data + at, x, width * sizeof *x);
    }
}

/* What a sub-layer reads: norm(x) in order "pre", x itself in order "post" */
static const float *sublayer_input(const struct stack *s, const struct norm *norm, const float *x, long rows,
                                   float *normed)
{
    if (!s->norm_first)
        return x;
    normalize(norm, x, rows, s->width, normed);
    return normed;
}

/* The residual connection after a sub-layer: x += result, then the norm in order "post" */
static void add_and_norm(const struct stack *s, const struct norm *norm, float *x, const float *result, long rows)
{
    add(x, result, rows * s->width);
    if (!s->norm_first)
        normalize(norm, x, rows, s->width, x);
}

/* Self-attention and its residual, on a block of rows x [rows, width], in place; ``cache`` 0: there is none. */
static void self_attention(const struct stack *s, const struct attention *a, const struct call *c,
                           const struct key_values *cache, struct rows rows, float *x, const struct buffers *buffers)
{
    long width = s->head_width, stride = a->input.outputs;
    int bf16 = cache && c->bf16;
    struct key_values projected = {
        {(char *)(buffers->projected + s->heads * width), stride, width, stride},
        {(char *)(buffers->projected + (s->heads + s->groups) * width), stride, width, stride},
    };
    struct key_values visible = cache ? *cache : projected;
    product(&a->input, sublayer_input(s, &a->norm, x, rows.count, buffers->normed), rows.count, buffers->projected,
            buffers);
    for (long r = 0; r < rows.count; r++) {
        float *query = buffers->projected + r * stride, *key = query + s->heads * width;
        float *value = key + s->groups * width;
        long b = rows.indices[r] / rows.queries, i = rows.indices[r] % rows.queries;
        if (c->cosine) {
            long at = b * c->rotation_stride + i * (width / 2);
            rotate(query, s->heads + s->groups, width, c->cosine + at, c->sine + at); /* keys follow the queries */
        }
        if (cache) {
            long slot = c->slots[rows.indices[r]];
            write_slot(strided_from(visible.keys, b, bf16), bf16, slot, key, s->groups, width);
            write_slot(strided_from(visible.values, b, bf16), bf16, slot, value, s->groups, width);
        }
    }
    attend(buffers->projected, stride, rows, visible.keys, visible.values, bf16, !cache, c->mask, s->heads,
           s->heads / s->groups, c->keys, width, 1 / sqrtf(width), buffers->weights, buffers->mixed);
    count_time(ATTENTION);
    product(&a->output, buffers->mixed, rows.count, buffers->result, buffers);
    add_and_norm(s, &a->norm, x, buffers->result, rows.count);
}

/* Attention to the memory and its residual, likewise */
static void cross_attention(const struct stack *s, const struct attention *a, const struct call *c,
                            const struct key_values *memory, struct rows rows, float *x, const struct buffers *buffers)
{
    long width = s->head_width;
    product(&a->input, sublayer_input(s, &a->norm, x, rows.count, buffers->normed), rows.count, buffers->projected,
            buffers);
    attend(buffers->projected, a->input.outputs, rows, memory->keys, memory->values, c->bf16, 0, c->memory_mask,
           s->heads, s->heads / s->groups, c->memory_keys, width, 1 / sqrtf(width), buffers->weights, buffers->mixed);
    count_time(ATTENTION);
    product(&a->output, buffers->mixed, rows.count, buffers->result, buffers);
    add_and_norm(s, &a->norm, x, buffers->result, rows.count);
}

/* Equation (2), the feed-forward network, and its residual, likewise */
static void feed_forward(const struct stack *s, const struct layer *layer, long rows, float *x,
                         const struct buffers *buffers)
{
    const float *in = sublayer_input(s, &layer->norm, x, rows, buffers->normed);
    product(&layer->input, in, rows, buffers->inner, buffers);
    if (layer->gate.inputs)
        product(&layer->gate, in, rows, buffers->gate, buffers);
    activate(s->activation, buffers->inner, layer->gate.inputs ? buffers->gate : 0, rows * s->inner);
    product(&layer->output, buffers->inner, rows, buffers->result, buffers);
    add_and_norm(s, &layer->norm, x, buffers->result, rows);
}

/* The rows from ``first`` on that are computed together: as many whole sentences as have BLOCK rows, or one longer
   sentence. */
static struct rows block_of_rows(struct rows rows, long first)
{
    long end = first;
    for (long size; end < rows.count; end += size) {
        size = of_one_sentence(rows, end);
        if (end > first && end + size - first > BLOCK)
            break;
    }
    return (struct rows){rows.indices + first, end - first, rows.queries};
}

/* The forward pass: layer by layer, and in each layer block by block, so that the numbers between the sub-layers of a
   block stay in the cache. Returns 0 without memory for these numbers, else 1. */
int run(const struct stack *s, const struct call *c)
{
    long rows = c->rows.queries > BLOCK ? c->rows.queries : BLOCK;
    long projected = (s->heads + 2 * s->groups) * s->head_width, mixed = s->heads * s->head_width;
    long keys = c->keys > c->memory_keys ? c->keys : c->memory_keys;
    long widest = s->width > s->inner ? s->width : s->inner;
    widest = widest > mixed ? widest : mixed;
    long size = rows * (2 * s->width + projected + mixed + 2 * s->inner) + keys + LANES + BLOCK * widest;
    float *memory = malloc(size * sizeof *memory);
    if (!memory)
        return 0;
    struct buffers buffers = {.normed = memory};
    buffers.result = buffers.normed + rows * s->width;
    buffers.projected = buffers.result + rows * s->width;
    buffers.mixed = buffers.projected + rows * projected;
    buffers.inner = buffers.mixed + rows * mixed;
    buffers.gate = buffers.inner + rows * s->inner;
    buffers.converted = (uint32_t *)(buffers.gate + rows * s->inner);
    buffers.weights = (float *)buffers.converted + BLOCK * widest;
    count_time(PARTS);
    for (long l = 0; l < s->layers; l++)
        for (long first = 0; first < c->rows.count;) {
            const struct layer *layer = &s->layer[l];
            struct rows block = block_of_rows(c->rows, first);
            float *x = c->x + first * s->width;
            self_attention(s, &layer->self_attention, c, c->cache ? &c->cache[l] : 0, block, x, &buffers);
            if (layer->cross_attention.input.inputs)
                cross_attention(s, &layer->cross_attention, c, &c->memory[l], block, x, &buffers);
            feed_forward(s, layer, block.count, x, &buffers);
            first += block.count;
        }
    if (s->final_norm.gain)
        normalize(&s->final_norm, c->x, c->rows.count, s->width, c->x);
    count_time(NORMS);
    free(memory);
    return 1;
}

/* Projects a memory [sentences, tokens, width] to the keys and values of one layer's cross-attention; the outputs of w
   are keys, then values. Sentence b has lengths[b] tokens: nothing is written for the padding after them. Returns 0
   without working memory, else 1. */
int project(const struct linear *w, const float *memory, long sentences, long tokens, const int64_t *lengths,
            struct key_values to, int bf16, long groups, long head_width)
{
    float *projected = malloc(BLOCK * (w->outputs + w->inputs) * sizeof *projected);
    if (!projected)
        return 0;
    uint32_t *converted = (uint32_t *)(projected + BLOCK * w->outputs);
    for (long b = 0; b < sentences; b++, memory += tokens * w->inputs)
        for (long first = 0; first < lengths[b]; first += BLOCK) {
            long count = lengths[b] - first < BLOCK ? lengths[b] - first : BLOCK;
            multiply(w, memory + first * w->inputs, count, projected, converted);
            for (long r = 0; r < count; r++) {
                const float *key = projected + r * w->outputs, *value = key + groups * head_width;
                write_slot(strided_from(to.keys, b, bf16), bf16, first + r, key, groups, head_width);
                write_slot(strided_from(to.values, b, bf16), bf16, first + r, value, groups, head_width);
            }
        }
    free(projected);
    return 1;
}

/* One linear layer by itself, x [rows, inputs] -> out [rows, outputs]. Returns 0 without working memory, else 1. */
int run_linear(const struct linear *w, const float *x, long rows, float *out)
{
    uint32_t *converted = malloc(BLOCK * w->inputs * sizeof *converted);
    if (!converted)
        return 0;
    multiply(w, x, rows, out, converted);
    free(converted);
    return 1;
}

/* The structures that accel/structures.py mirrors, each with its last field. When the library is loaded, Python compares
   the two functions below with its own layout, since another one would make it read and write wrong memory. */
#define MIRRORED(each) \
    each(linear, offsets) each(strided, token) each(mask, query) each(rows, queries) each(norm, centred) \
        each(dropout, scale) each(head_rows, stride) each(varlen, bias) each(attention, norm) each(layer, norm) \
            each(stack, final_norm) each(key_values, values) each(call, rotation_stride)

/* The bytes of a structure; -1: there is none of this name */
long structure_size(const char *name)
{
#define SIZE(type, last) \
    if (!strcmp(name, #type)) \
        return sizeof(struct type);
    MIRRORED(SIZE)
    return -1;
}

/* Where the last field of a structure begins, in bytes; -1: there is no structure of this name */
long last_field_offset(const char *name)
{
#define OFFSET(type, last) \
    if (!strcmp(name, #type)) \
        return offsetof(struct type, last);
    MIRRORED(OFFSET)
    return -1;
}
