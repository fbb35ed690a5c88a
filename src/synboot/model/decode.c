/* Forward passes of Llama-layout models (Llama, Mistral, Qwen2, Qwen3) over cached keys and values,
 * and sampling, for one core. Compiled by core/native.py, called by model/native.py.
 *
 * A row is one token of one sequence. Rows of prompts and rows of sequences that go on are the same
 * thing, and no row's numbers depend on another row of the call: every sum runs in an order that
 * the row alone fixes. So what shares a batch cannot change what is sampled (law 4).
 *
 * Keys and values live in pages of PAGE positions. A sequence is a prefix (a prompt's pages, which
 * many sequences share) and pages of its own.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifndef HEAD_DIM
#error "HEAD_DIM: the dimensions of an attention head"
#endif
#ifndef PAGE
#error "PAGE: the positions of a page of keys and values, a multiple of 16"
#endif
#if defined(__AVX512F__) && HEAD_DIM % 16 == 0
#define LANES 16
#elif defined(__AVX__) && HEAD_DIM % 8 == 0
#define LANES 8
#elif HEAD_DIM % 4 == 0
#define LANES 4
#else
#error "HEAD_DIM: expected a multiple of 4"
#endif
#define PANEL (2 * LANES) /* columns of a weight matrix that are computed together */
#define TILE 6            /* rows that are computed together */
#if defined(__x86_64__)
#define KEEP(x) __asm__("" : "+x"(x)) /* in a register, instead of reading it again and again */
#else
#define KEEP(x)
#endif
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#ifdef KV_BFLOAT16
typedef uint16_t kv;
typedef uint16_t hvec __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
INLINE vec load_kv(const kv *p) {
    ivec bits = __builtin_convertvector(*(const hvec *)p, ivec) << 16;
    return (vec)bits;
}
INLINE kv store_kv(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16; /* to nearest, ties to even */
}
#else
typedef float kv;
INLINE vec load_kv(const kv *p) { return *(const vec *)p; }
INLINE kv store_kv(float x) { return x; }
#endif

typedef struct {
    /* Matrices are packed by `pack`; a bias or a head norm that the model lacks is NULL. */
    const float *input_norm, *qkv, *qkv_bias, *query_norm, *key_norm, *output, *output_bias;
    const float *feed_forward_norm, *gate_up, *gate_up_bias, *down, *down_bias;
} Layer;

typedef struct {
    int64_t layers, width, heads, kv_heads, feed_forward, vocabulary, pages;
    float epsilon;
    const float *embedding; /* [vocabulary, width] */
    const Layer *layer;
    const float *final_norm, *head, *head_bias;
    const float *cosines, *sines; /* [positions, HEAD_DIM / 2] */
    kv *keys;                     /* [layers, pages, kv_heads, HEAD_DIM, PAGE] */
    kv *values;                   /* [layers, pages, kv_heads, PAGE, HEAD_DIM] */
} Model;

typedef struct {
    int32_t id, position;                  /* position: for the rotary embedding */
    int32_t prefix_pages, prefix_length;   /* first entry in the page table, positions */
    int32_t own_pages, own_length;         /* the row's own key is at own_length - 1 */
} Row;

int64_t panel_columns(void) { return PANEL; }

INLINE int64_t padded(int64_t columns) { return (columns + PANEL - 1) / PANEL * PANEL; }

INLINE vec splat(float x) { return x - (vec){0}; }

INLINE vec vmax(vec a, vec b) { return (vec)(((ivec)(a > b) & (ivec)a) | (~(ivec)(a > b) & (ivec)b)); }

INLINE float sum_of(vec x) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += x[i];
    return total;
}

/* exp for x <= 88; below -87 it stays at exp(-87). Relative error below 2e-7. */
INLINE vec vexp(vec x) {
    x = vmax(x, splat(-87.0f));
    vec shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: rounds to a whole number */
    ivec exponent = (ivec)shifted << 23;
    vec n = shifted - 12582912.0f;
    vec r = x - n * 0.693359375f - n * -2.12194440e-4f;
    vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return (vec)((ivec)p + exponent);
}

/* weight [columns, inner], row-major, to panels [columns / PANEL, inner, PANEL], zeros at the end. */
void pack(const float *weight, int64_t columns, int64_t inner, float *out) {
    for (int64_t panel = 0; panel < padded(columns); panel += PANEL)
        for (int64_t k = 0; k < inner; k++)
            for (int64_t j = panel; j < panel + PANEL; j++)
                *out++ = j < columns ? weight[j * inner + k] : 0.0f;
}

enum { STORE, ADD, SWIGLU };

INLINE void tile(int rows, int mode, const float *a, int64_t a_stride, int64_t inner,
                 const float *panel, const float *bias, float *out, int64_t out_stride) {
    vec low[TILE], high[TILE];
    for (int r = 0; r < rows; r++) {
        low[r] = bias ? *(const vec *)bias : splat(0);
        high[r] = bias ? *(const vec *)(bias + LANES) : splat(0);
    }
    for (int64_t k = 0; k < inner; k++) {
        vec left = *(const vec *)(panel + k * PANEL), right = *(const vec *)(panel + k * PANEL + LANES);
        KEEP(left);
        KEEP(right);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            vec x = splat(a[r * a_stride + k]);
            low[r] += x * left;
            high[r] += x * right;
        }
    }
    for (int r = 0; r < rows; r++) {
        float *place = out + r * out_stride;
        if (mode == SWIGLU) {
            *(vec *)place = low[r] / (1.0f + vexp(-vmax(low[r], splat(-87.0f)))) * high[r];
        } else if (mode == ADD) {
            *(vec *)place += low[r];
            *(vec *)(place + LANES) += high[r];
        } else {
            *(vec *)place = low[r];
            *(vec *)(place + LANES) = high[r];
        }
    }
}

/* out (=, += or swiglu of) a [rows, inner] times a packed matrix; rows of `out` are padded. */
INLINE void multiply(int mode, const float *a, int64_t rows, int64_t a_stride, int64_t inner,
                     const float *matrix, const float *bias, int64_t columns, float *out,
                     int64_t out_stride) {
    int64_t block = (int64_t)(192 << 10) / (4 * inner) / TILE * TILE; /* rows that stay in L2 */
    if (block < TILE) block = TILE;
    int64_t step = mode == SWIGLU ? LANES : PANEL;
    for (int64_t first = 0; first < rows; first += block) {
        int64_t last = first + block < rows ? first + block : rows;
        for (int64_t p = 0; p < padded(columns) / PANEL; p++) {
            const float *panel = matrix + p * inner * PANEL;
            const float *own_bias = bias ? bias + p * PANEL : NULL;
            int64_t r = first;
            for (; r + TILE <= last; r += TILE)
                tile(TILE, mode, a + r * a_stride, a_stride, inner, panel, own_bias,
                     out + r * out_stride + p * step, out_stride);
#define REST(n) case n: tile(n, mode, a + r * a_stride, a_stride, inner, panel, own_bias, \
                             out + r * out_stride + p * step, out_stride); break;
            switch (last - r) { REST(1) REST(2) REST(3) REST(4) REST(5) }
        }
    }
}

static void store_product(const float *a, int64_t rows, int64_t a_stride, int64_t inner,
                          const float *matrix, const float *bias, int64_t columns, float *out,
                          int64_t out_stride) {
    multiply(STORE, a, rows, a_stride, inner, matrix, bias, columns, out, out_stride);
}

static void add_product(const float *a, int64_t rows, int64_t a_stride, int64_t inner,
                        const float *matrix, const float *bias, int64_t columns, float *out,
                        int64_t out_stride) {
    multiply(ADD, a, rows, a_stride, inner, matrix, bias, columns, out, out_stride);
}

static void swiglu_product(const float *a, int64_t rows, int64_t a_stride, int64_t inner,
                           const float *matrix, const float *bias, int64_t columns, float *out,
                           int64_t out_stride) {
    multiply(SWIGLU, a, rows, a_stride, inner, matrix, bias, columns, out, out_stride);
}

INLINE void norm(const float *x, const float *weight, int64_t count, float epsilon, float *out) {
    float squares = 0;
    int64_t i = 0;
    vec lanes = splat(0);
    for (; i + LANES <= count; i += LANES) {
        vec v = *(const vec *)(x + i);
        lanes += v * v;
    }
    for (; i < count; i++) squares += x[i] * x[i];
    float scale = 1.0f / sqrtf((squares + sum_of(lanes)) / count + epsilon);
    for (i = 0; i < count; i++) out[i] = x[i] * scale * weight[i];
}

/* Norm (where there is one) and rotate a head in place. */
INLINE void turn(float *head, const float *weight, float epsilon, const float *cosines,
                 const float *sines, float scale) {
    if (weight) norm(head, weight, HEAD_DIM, epsilon, head);
    for (int d = 0; d < HEAD_DIM / 2; d++) {
        float x = head[d], y = head[d + HEAD_DIM / 2];
        head[d] = (x * cosines[d] - y * sines[d]) * scale;
        head[d + HEAD_DIM / 2] = (y * cosines[d] + x * sines[d]) * scale;
    }
}

#define PAGE_VECS (PAGE / LANES)
#define DIM_VECS (HEAD_DIM / LANES)
#define MOST_HEADS 4 /* query heads of one key-value head that are computed together */

/* Parts of a sum of products that run beside each other, as one alone would wait for itself. */
#define SPLITS(heads) ((heads) == 1 ? 4 : (heads) == 2 ? 2 : 1)

INLINE void score_page(int heads, const float *queries, const kv *page, float *scores,
                       int64_t stride) {
    vec sums[4][PAGE_VECS];
    const int splits = SPLITS(heads);
#pragma GCC unroll 4
    for (int n = 0; n < heads * splits; n++)
#pragma GCC unroll 4
        for (int i = 0; i < PAGE_VECS; i++) sums[n][i] = splat(0);
    for (int d = 0; d < HEAD_DIM; d += splits)
#pragma GCC unroll 4
        for (int n = 0; n < splits; n++)
#pragma GCC unroll 4
            for (int i = 0; i < PAGE_VECS; i++) {
                vec key = load_kv(page + (d + n) * PAGE + i * LANES);
#pragma GCC unroll 4
                for (int h = 0; h < heads; h++)
                    sums[h * splits + n][i] += splat(queries[h * HEAD_DIM + d + n]) * key;
            }
#pragma GCC unroll 4
    for (int h = 0; h < heads; h++)
#pragma GCC unroll 4
        for (int i = 0; i < PAGE_VECS; i++) {
            vec sum = sums[h * splits][i];
#pragma GCC unroll 4
            for (int n = 1; n < splits; n++) sum += sums[h * splits + n][i];
            *(vec *)(scores + h * stride + i * LANES) = sum;
        }
}

/* out [heads, HEAD_DIM] += weights [heads, PAGE] times a page of values, `width` vectors of
 * dimensions at a time. */
INLINE void add_page(int heads, int width, const kv *page, const float *weights, int64_t stride,
                     float *out) {
#pragma GCC unroll 4
    for (int c = 0; c + width <= DIM_VECS; c += width) {
        vec sums[MOST_HEADS][4];
#pragma GCC unroll 4
        for (int h = 0; h < heads; h++)
#pragma GCC unroll 4
            for (int i = 0; i < width; i++)
                sums[h][i] = *(const vec *)(out + h * HEAD_DIM + (c + i) * LANES);
        for (int p = 0; p < PAGE; p++) {
            vec values[4];
#pragma GCC unroll 4
            for (int i = 0; i < width; i++)
                values[i] = load_kv(page + p * HEAD_DIM + (c + i) * LANES);
#pragma GCC unroll 4
            for (int h = 0; h < heads; h++) {
                vec weight = splat(weights[h * stride + p]);
#pragma GCC unroll 4
                for (int i = 0; i < width; i++) sums[h][i] += weight * values[i];
            }
        }
#pragma GCC unroll 4
        for (int h = 0; h < heads; h++)
#pragma GCC unroll 4
            for (int i = 0; i < width; i++)
                *(vec *)(out + h * HEAD_DIM + (c + i) * LANES) = sums[h][i];
    }
}

INLINE void softmax(float *row, int64_t unseen_from, int64_t unseen_to, int64_t end, int64_t length) {
    for (int64_t i = unseen_from; i < unseen_to; i++) row[i] = -INFINITY;
    for (int64_t i = end; i < length; i++) row[i] = -INFINITY;
    vec most = splat(-INFINITY), total = splat(0);
    for (int64_t i = 0; i < length; i += LANES) most = vmax(most, *(vec *)(row + i));
    float top = most[0];
    for (int i = 1; i < LANES; i++) top = most[i] > top ? most[i] : top;
    for (int64_t i = 0; i < length; i += LANES) {
        vec shifted = *(vec *)(row + i) - top;
        vec e = vexp(shifted);
        e = (vec)((ivec)e & (ivec)(shifted > -87.0f)); /* unseen positions weigh nothing */
        *(vec *)(row + i) = e;
        total += e;
    }
    vec scale = splat(1.0f / sum_of(total));
    for (int64_t i = 0; i < length; i += LANES) *(vec *)(row + i) *= scale;
}

typedef struct {
    int64_t *pages; /* where a row's pages begin in keys and values */
    float *scores;  /* [heads, stride] */
    int64_t stride;
} Bench; /* room for one row's attention */

/* Attention of query heads `first` to `first + heads` of every key-value head. */
INLINE void attend(int heads, int64_t first, const Model *m, const Row *row, int64_t prefix,
                   int64_t count, const float *queries, float *out, Bench *bench) {
    int64_t groups = m->heads / m->kv_heads, size = HEAD_DIM * PAGE;
    for (int64_t n = 0; n < count; n++) {
        const kv *page = m->keys + bench->pages[n];
        const kv *next = n + 1 < count ? m->keys + bench->pages[n + 1] : m->values + bench->pages[0];
        for (int64_t k = 0; k < m->kv_heads; k++) {
            for (int64_t i = 0; i < size; i += 64 / (int64_t)sizeof(kv))
                __builtin_prefetch(next + k * size + i, 0, 2);
            score_page(heads, queries + (k * groups + first) * HEAD_DIM, page + k * size,
                       bench->scores + k * heads * bench->stride + n * PAGE, bench->stride);
        }
    }
    for (int64_t r = 0; r < m->kv_heads * heads; r++)
        softmax(bench->scores + r * bench->stride, row->prefix_length, prefix * PAGE,
                prefix * PAGE + row->own_length, count * PAGE);
    for (int64_t k = 0; k < m->kv_heads; k++)
        memset(out + (k * groups + first) * HEAD_DIM, 0, (size_t)heads * HEAD_DIM * sizeof(float));
    for (int64_t n = 0; n < count; n++) {
        const kv *page = m->values + bench->pages[n];
        const kv *next = m->values + bench->pages[n + 1 < count ? n + 1 : n];
        for (int64_t k = 0; k < m->kv_heads; k++) {
            float *place = out + (k * groups + first) * HEAD_DIM;
            const float *weights = bench->scores + k * heads * bench->stride + n * PAGE;
            for (int64_t i = 0; i < size; i += 64 / (int64_t)sizeof(kv))
                __builtin_prefetch(next + k * size + i, 0, 2);
            if (heads < 4 && DIM_VECS % 4 == 0)
                add_page(heads, 4, page + k * size, weights, bench->stride, place);
            else if (DIM_VECS % 2 == 0)
                add_page(heads, 2, page + k * size, weights, bench->stride, place);
            else
                add_page(heads, 1, page + k * size, weights, bench->stride, place);
        }
    }
}

static void attend_row(const Model *m, int64_t layer, const Row *row, const int32_t *table,
                       const float *queries, float *out, Bench *bench) {
    int64_t prefix = (row->prefix_length + PAGE - 1) / PAGE, own = (row->own_length + PAGE - 1) / PAGE;
    int64_t groups = m->heads / m->kv_heads, count = prefix + own;
    for (int64_t n = 0; n < count; n++) {
        int64_t page = n < prefix ? table[row->prefix_pages + n] : table[row->own_pages + n - prefix];
        bench->pages[n] = (layer * m->pages + page) * m->kv_heads * HEAD_DIM * PAGE;
    }
    int64_t g = 0;
#define ATTEND(n) attend(n, g, m, row, prefix, count, queries, out, bench)
    for (; g + MOST_HEADS <= groups; g += MOST_HEADS) ATTEND(4);
    switch (groups - g) {
        case 3: ATTEND(3); break;
        case 2: ATTEND(2); break;
        case 1: ATTEND(1); break;
    }
}

/* The final hidden states, normed, of rows `wanted` [num_wanted], ascending, into out
 * [num_wanted, width]; keys and values of all rows are kept. Returns -1 if memory runs out. */
int forward(const Model *m, const Row *rows, int64_t num_rows, const int32_t *table,
            const int64_t *wanted, int64_t num_wanted, float *out) {
    int64_t heads_width = m->heads * HEAD_DIM, kv_width = m->kv_heads * HEAD_DIM;
    int64_t width = m->width, wide = padded(width), qkv_width = padded(heads_width + 2 * kv_width);
    int64_t inner_width = padded(2 * m->feed_forward) / 2, longest = 0;
    for (int64_t r = 0; r < num_rows; r++) {
        int64_t pages = (rows[r].prefix_length + PAGE - 1) / PAGE + (rows[r].own_length + PAGE - 1) / PAGE;
        longest = pages > longest ? pages : longest;
    }
    int64_t per_row = 2 * wide + qkv_width + heads_width + inner_width;
    int64_t most_scores = MOST_HEADS * m->kv_heads * longest * PAGE;
    float *room = malloc((size_t)(num_rows * per_row + most_scores + PANEL) * sizeof(float));
    int64_t *pages = malloc((size_t)(longest + 1) * sizeof(*pages));
    Row *kept = malloc((size_t)(num_rows + 1) * sizeof(Row));
    if (!room || !pages || !kept) {
        free(room);
        free(pages);
        free(kept);
        return -1;
    }
    float *hidden = room, *normed = hidden + num_rows * wide, *qkv = normed + num_rows * wide;
    float *mixed = qkv + num_rows * qkv_width, *inner = mixed + num_rows * heads_width;
    Bench bench = {pages, inner + num_rows * inner_width, longest * PAGE};
    float scale = 1.0f / sqrtf(HEAD_DIM);
    memcpy(kept, rows, (size_t)num_rows * sizeof(Row));

    for (int64_t r = 0; r < num_rows; r++)
        memcpy(hidden + r * wide, m->embedding + rows[r].id * width, (size_t)width * sizeof(float));
    for (int64_t l = 0; l < m->layers; l++) {
        const Layer *layer = m->layer + l;
        for (int64_t r = 0; r < num_rows; r++)
            norm(hidden + r * wide, layer->input_norm, width, m->epsilon, normed + r * wide);
        store_product(normed, num_rows, wide, width, layer->qkv, layer->qkv_bias,
                      heads_width + 2 * kv_width, qkv, qkv_width);
        for (int64_t r = 0; r < num_rows; r++) {
            float *query = qkv + r * qkv_width, *key = query + heads_width, *value = key + kv_width;
            const float *cosines = m->cosines + kept[r].position * (HEAD_DIM / 2);
            const float *sines = m->sines + kept[r].position * (HEAD_DIM / 2);
            int64_t place = kept[r].own_length - 1, slot = place % PAGE;
            int64_t page = table[kept[r].own_pages + place / PAGE];
            kv *keys = m->keys + (l * m->pages + page) * m->kv_heads * HEAD_DIM * PAGE;
            kv *values = m->values + (l * m->pages + page) * m->kv_heads * HEAD_DIM * PAGE;
            for (int64_t h = 0; h < m->heads; h++)
                turn(query + h * HEAD_DIM, layer->query_norm, m->epsilon, cosines, sines, scale);
            for (int64_t h = 0; h < m->kv_heads; h++) {
                turn(key + h * HEAD_DIM, layer->key_norm, m->epsilon, cosines, sines, 1.0f);
                for (int d = 0; d < HEAD_DIM; d++) {
                    keys[(h * HEAD_DIM + d) * PAGE + slot] = store_kv(key[h * HEAD_DIM + d]);
                    values[(h * PAGE + slot) * HEAD_DIM + d] = store_kv(value[h * HEAD_DIM + d]);
                }
            }
        }
        if (l == m->layers - 1 && num_wanted < num_rows) { /* what nobody asks for ends here */
            for (int64_t i = 0; i < num_wanted; i++) {
                int64_t r = wanted[i];
                kept[i] = kept[r];
                memmove(hidden + i * wide, hidden + r * wide, (size_t)wide * sizeof(float));
                memmove(qkv + i * qkv_width, qkv + r * qkv_width, (size_t)qkv_width * sizeof(float));
            }
            num_rows = num_wanted;
        }
        for (int64_t r = 0; r < num_rows; r++)
            attend_row(m, l, kept + r, table, qkv + r * qkv_width, mixed + r * heads_width, &bench);
        add_product(mixed, num_rows, heads_width, heads_width, layer->output, layer->output_bias,
                    width, hidden, wide);
        for (int64_t r = 0; r < num_rows; r++)
            norm(hidden + r * wide, layer->feed_forward_norm, width, m->epsilon, normed + r * wide);
        swiglu_product(normed, num_rows, wide, width, layer->gate_up, layer->gate_up_bias,
                       2 * m->feed_forward, inner, inner_width);
        add_product(inner, num_rows, inner_width, m->feed_forward, layer->down, layer->down_bias,
                    width, hidden, wide);
    }
    for (int64_t r = 0; r < num_rows; r++)
        norm(hidden + r * wide, m->final_norm, width, m->epsilon, out + r * width);
    free(room);
    free(pages);
    free(kept);
    return 0;
}

/* Logits of hidden states [num_rows, width], into out [num_rows, padded vocabulary]. */
void logits(const Model *m, const float *hidden, int64_t num_rows, float *out) {
    store_product(hidden, num_rows, m->width, m->width, m->head, m->head_bias, m->vocabulary, out,
                  padded(m->vocabulary));
}

static int descending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

#define BUCKETS 1024
#define FEW 24

INLINE uint32_t bits_of(float x) { /* in the order of the numbers, which are not negative */
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

/* The smallest of the fewest largest values whose number reaches `count` or whose mass reaches
 * `mass`, whichever comes first; 0 if all of them do not. `mass_out` is the mass up to it. Instead
 * of a sort, buckets of an ever smaller range that has the answer. `values` are destroyed. */
static float least_kept(float *values, int64_t num, int64_t count, double mass, double *mass_out) {
    double sums[BUCKETS], reached = 0;
    int32_t counts[BUCKETS];
    int64_t seen = 0;
    while (num > FEW) {
        uint32_t low = UINT32_MAX, high = 0;
        for (int64_t i = 0; i < num; i++) {
            uint32_t bits = bits_of(values[i]);
            low = bits < low ? bits : low;
            high = bits > high ? bits : high;
        }
        if (low == high) break;
        int shift = 0, b;
        while ((high - low) >> shift >= BUCKETS) shift++;
        memset(sums, 0, sizeof sums);
        memset(counts, 0, sizeof counts);
        for (int64_t i = 0; i < num; i++) {
            b = (bits_of(values[i]) - low) >> shift;
            sums[b] += values[i];
            counts[b]++;
        }
        for (b = (high - low) >> shift; b > 0; b--) {
            if (reached + sums[b] >= mass || seen + counts[b] >= count) break;
            reached += sums[b];
            seen += counts[b];
        }
        int64_t inside = 0;
        for (int64_t i = 0; i < num; i++) {
            float value = values[i];
            values[inside] = value;
            inside += (bits_of(value) - low) >> shift == (uint32_t)b;
        }
        num = inside;
    }
    if (num <= FEW) qsort(values, (size_t)num, sizeof(float), descending);
    for (int64_t i = 0; i < num; i++) {
        reached += values[i];
        if (reached >= mass || ++seen >= count) {
            *mass_out = reached;
            return values[i];
        }
    }
    *mass_out = reached;
    return 0;
}

/* One token for each draw, as `synboot.synth.engine.choose` says: draw i is from row `row_of[i]` of
 * logits [.., stride], among the first `num_tokens` ids, with the uniform number i. `room` has
 * 4 * num_tokens numbers. */
void choose(const float *logits, int64_t stride, const int64_t *row_of, int64_t num_draws,
            int64_t num_tokens, const float *uniforms, float temperature, float top_p, int64_t top_k,
            float *room, int64_t *out) {
    float *weights = room, *kept = room + num_tokens, *spent = kept + num_tokens;
    int32_t *ids = (int32_t *)(spent + num_tokens);
    for (int64_t i = 0; i < num_draws; i++) {
        const float *row = logits + row_of[i] * stride;
        int64_t t = 0;
        vec most = splat(-INFINITY), total = splat(0);
        for (; t + LANES <= num_tokens; t += LANES) most = vmax(*(const vec *)(row + t), most);
        float top = most[0];
        for (int l = 1; l < LANES; l++) top = most[l] > top ? most[l] : top;
        for (; t < num_tokens; t++) top = row[t] > top ? row[t] : top;
        if (temperature == 0) {
            for (t = 0; row[t] < top; t++);
            out[i] = t;
            continue;
        }
        for (t = 0; t + LANES <= num_tokens; t += LANES) {
            vec shifted = (*(const vec *)(row + t) - top) / temperature;
            vec e = (vec)((ivec)vexp(shifted) & (ivec)(shifted > -87.0f));
            *(vec *)(weights + t) = e;
            total += e;
        }
        double mass = 0;
        for (int l = 0; l < LANES; l++) mass += total[l];
        if (t < num_tokens) { /* as a whole vector: equal logits have equal weights */
            vec last = splat(-INFINITY);
            for (int l = 0; l < num_tokens - t; l++) last[l] = (row[t + l] - top) / temperature;
            vec e = (vec)((ivec)vexp(last) & (ivec)(last > -87.0f));
            for (int l = 0; l < num_tokens - t; l++) mass += weights[t + l] = e[l];
        }
        /* What is lighter than this cannot be needed to reach top_p. */
        float floor = top_k > 0 ? 0 : (float)((1.0 - top_p) * mass / num_tokens) * 0.999f;
        int64_t num = 0;
        for (t = 0; t < num_tokens; t++) {
            kept[num] = weights[t];
            ids[num] = (int32_t)t;
            num += weights[t] >= floor;
        }
        float least = 0;
        double reached = mass;
        if (top_k > 0) {
            memcpy(spent, kept, (size_t)num * sizeof(float));
            least = least_kept(spent, num, top_k, INFINITY, &reached);
        }
        if (top_p < 1) {
            memcpy(spent, kept, (size_t)num * sizeof(float));
            float other = least_kept(spent, num, INT64_MAX, top_p * reached, &reached);
            least = other > least ? other : least;
        }
        int64_t left = 0;
        for (int64_t n = 0; n < num; n++) {
            float weight = kept[n];
            int32_t id = ids[n];
            kept[left] = weight;
            ids[left] = id;
            left += weight >= least && weight > 0;
        }
        double parts[4] = {0, 0, 0, 0}, passed = 0;
        int64_t n = 0;
        for (; n + 4 <= left; n += 4)
            for (int l = 0; l < 4; l++) parts[l] += kept[n + l];
        for (; n < left; n++) parts[0] += kept[n];
        double target = uniforms[i] * (parts[0] + parts[1] + parts[2] + parts[3]);
        for (n = 0; n + 1 < left; n++)
            if ((passed += kept[n]) > target) break;
        out[i] = ids[n];
    }
}
