/* SBLU as a pair of one-pole recursions; README.md derives it. Plain C, so that it builds where there is no PyTorch.
 *
 * A kernel is one channel of one chosen patch; VEC kernels run side by side in one vector, which the compiler maps to
 * what the processor has. With l = exp(-(a + jw)), q = l^(R+1) and x the frames of the window:
 *     causal       A[n] = l A[n-1] + x[n] - q x[n-R-1] = sum_{k=0..R} l^k x[n-k]
 *     anti-causal  C[n] = l C[n+1] + x[n] - q x[n+R+1] = sum_{k=0..R} l^k x[n+k]
 *     s = A + C - x (bilateral) or conj(A) + C - x (analytic),   m = g |s|
 * This file is compiled once per precision: it includes itself with REAL set.
 */
#ifndef REAL
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#if defined(__x86_64__) && defined(__gnu_linux__) && __has_attribute(target_clones)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#define INLINE static inline __attribute__((always_inline))
#define VEC_BYTES 32

#define REAL float
#define SQRT sqrtf
#define NAME(stem) stem##_f32
#include "sblu.c"
#undef REAL
#undef SQRT
#undef NAME
#define REAL double
#define SQRT sqrt
#define NAME(stem) stem##_f64
#include "sblu.c"
#else

#define VEC ((int64_t)(VEC_BYTES / sizeof(REAL)))
typedef REAL NAME(vec) __attribute__((vector_size(VEC_BYTES)));
typedef REAL NAME(loose) __attribute__((vector_size(VEC_BYTES), aligned(sizeof(REAL)), may_alias));
#define vec NAME(vec)
#define loose NAME(loose)

/* Shapes: u, grad_u (B', T, H), b' counts clips and frequency patches; a, w (V, H); m, grad_m (V, Q, H), Q = P / S.
 * `patch_index` (V,) holds b' Nt + t of each chosen patch. */
typedef struct {
    const REAL *u, *a, *w, *exp_a, *expm1_a, *half_sin, *half_cos; /* of -a, -a, w / 2, w / 2 */
    const int64_t *patch_index;
    int64_t num_chosen, num_frames, num_channels, patch, radius, stride, analytic;
    REAL *m;
    const REAL *grad_m;
    REAL *grad_u, *grad_a, *grad_w; /* null in the forward pass */
    int64_t thread, num_threads; /* which share of how many */
} NAME(job);
#define job NAME(job)

/* `count` kernels, VEC but for the last channels; zero beyond. */
INLINE vec NAME(load)(const REAL *from, int64_t count) {
    if (count == VEC) return *(const loose *)from;
    vec v = {0};
    for (int64_t i = 0; i < count; i++) v[i] = from[i];
    return v;
}
#define load NAME(load)

INLINE void NAME(store)(REAL *to, vec v, int64_t count) {
    if (count == VEC) *(loose *)to = v;
    else for (int64_t i = 0; i < count; i++) to[i] = v[i];
}
#define store NAME(store)

INLINE vec NAME(root)(vec v) {
    for (int64_t i = 0; i < VEC; i++) v[i] = SQRT(v[i]);
    return v;
}
#define root NAME(root)

/* What a kernel's decay and frequency come to; free of cancellation for small a and w. */
typedef struct {
    vec lr, li, qr, qi, gain, gain_a, gain_w; /* l, q = l^(R+1), g, d log g / da, d log g / dw */
} NAME(kernels);
#define kernels NAME(kernels)

INLINE kernels NAME(kernels_of)(const job *j, int64_t at, int64_t count) {
    kernels k;
    const vec a = load(j->a + at, count), w = load(j->w + at, count);
    const vec r = load(j->exp_a + at, count), e = load(j->expm1_a + at, count);
    const vec s = load(j->half_sin + at, count), c = load(j->half_cos + at, count);
    const vec n = e * e / (4 * r) + s * s, d = a * a + w * w; /* sinh^2(a/2) + sin^2(w/2), |a + jw|^2 */
    k.lr = r * (1 - 2 * s * s), k.li = -2 * r * s * c;
    k.gain = 2 * root(n / d);
    k.gain_a = -e * (1 + r) / (8 * r * n) - a / d; /* sinh a / (4 n) - a / |a + jw|^2 */
    k.gain_w = s * c / (2 * n) - w / d;
    vec pr = k.lr, pi = k.li; /* q by squaring */
    k.qr = (vec){0} + 1, k.qi = (vec){0};
    for (int64_t power = j->radius + 1; power; power >>= 1) {
        if (power & 1) {
            const vec qr = k.qr * pr - k.qi * pi;
            k.qi = k.qr * pi + k.qi * pr, k.qr = qr;
        }
        const vec square = pr * pr - pi * pi;
        pi = 2 * pr * pi, pr = square;
    }
    return k;
}
#define kernels_of NAME(kernels_of)

/* y <- l y + x, complex; two fused multiply-adds deep. */
#define STEP(y_re, y_im, x_re, x_im)                    \
    do {                                                \
        const vec next_ = (x_re) + lr * y_re - li * y_im; \
        y_im = (x_im) + lr * y_im + li * y_re;          \
        y_re = next_;                                   \
    } while (0)

/* Cut the window of a chosen patch: its frames -R .. P-1+R, zero outside the clip. */
INLINE void NAME(cut)(const job *j, int64_t b, int64_t start, int64_t h, int64_t count, vec *x) {
    const REAL *u = j->u + b * j->num_frames * j->num_channels + h;
    for (int64_t i = 0; i < j->patch + 2 * j->radius; i++) {
        const int64_t n = start - j->radius + i;
        x[i] = n >= 0 && n < j->num_frames ? load(u + n * j->num_channels, count) : (vec){0};
    }
}

CLONES static int NAME(forward_some)(const job *j) {
    const int64_t P = j->patch, R = j->radius, H = j->num_channels, Nt = j->num_frames / P, W = P + 2 * R;
    const int64_t Q = P / j->stride;
    vec *x = aligned_alloc(VEC_BYTES, (size_t)(W + 4 * P) * sizeof(vec));
    if (!x) return 1;
    vec *ar = x + W, *ai = ar + P, *cr = ai + P, *ci = cr + P;
    const int64_t to = j->num_chosen * (j->thread + 1) / j->num_threads;
    for (int64_t v = j->num_chosen * j->thread / j->num_threads; v < to; v++) {
        const int64_t index = j->patch_index[v];
        for (int64_t h = 0; h < H; h += VEC) {
            const int64_t count = H - h < VEC ? H - h : VEC;
            const kernels k = kernels_of(j, v * H + h, count);
            const vec lr = k.lr, li = k.li, qr = k.qr, qi = k.qi, none = {0};
            NAME(cut)(j, index / Nt, index % Nt * P, h, count, x);
            vec a_re = none, a_im = none, c_re = none, c_im = none;
            for (int64_t i = 0; i < R; i++) {
                STEP(a_re, a_im, x[i], none);
                STEP(c_re, c_im, x[W - 1 - i], none);
            }
            for (int64_t n = 0; n < P; n++) {
                const vec gone_a = n ? x[n - 1] : none, gone_c = n ? x[W - n] : none;
                STEP(a_re, a_im, x[R + n] - qr * gone_a, -qi * gone_a);
                STEP(c_re, c_im, x[W - 1 - R - n] - qr * gone_c, -qi * gone_c);
                ar[n] = a_re, ai[n] = a_im, cr[P - 1 - n] = c_re, ci[P - 1 - n] = c_im;
            }
            REAL *m = j->m + v * Q * H + h;
            for (int64_t n = 0; n < P; n += j->stride) {
                const vec sr = ar[n] + cr[n] - x[R + n], si = j->analytic ? ci[n] - ai[n] : ci[n] + ai[n];
                store(m, k.gain * root(sr * sr + si * si), count);
                m += H;
            }
        }
    }
    free(x);
    return 0;
}

/* Each thread owns its share of the (b', channel block) pairs of u, so that sums run in the order of `patch_index`
 * whatever the number of threads. */
CLONES static int NAME(backward_some)(const job *j) {
    const int64_t P = j->patch, R = j->radius, H = j->num_channels, Nt = j->num_frames / P, W = P + 2 * R;
    const int64_t Q = P / j->stride, blocks = (H + VEC - 1) / VEC;
    vec *x = aligned_alloc(VEC_BYTES, (size_t)(W + 10 * P) * sizeof(vec));
    if (!x) return 1;
    vec *ar = x + W, *ai = ar + P, *cr = ai + P, *ci = cr + P;          /* A, C */
    vec *dar = ci + P, *dai = dar + P, *dcr = dai + P, *dci = dcr + P; /* A', C' = sum k l^k x[n-+k] */
    vec *gr = dci + P, *gi = gr + P;                                   /* dL/ds */
    for (int64_t v = 0; v < j->num_chosen; v++) {
        const int64_t index = j->patch_index[v], b = index / Nt, start = index % Nt * P;
        for (int64_t block = 0; block < blocks; block++) {
            if ((b * blocks + block) % j->num_threads != j->thread) continue;
            const int64_t h = block * VEC, count = H - h < VEC ? H - h : VEC;
            const kernels k = kernels_of(j, v * H + h, count);
            const vec lr = k.lr, li = k.li, qr = k.qr, qi = k.qi, none = {0};
            const vec dqr = (REAL)(R + 1) * qr, dqi = (REAL)(R + 1) * qi;
            NAME(cut)(j, b, start, h, count, x);

            /* A'[n] = l (A'[n-1] + A[n-1]) - (R+1) q x[n-R-1], and C' likewise */
            vec a_re = none, a_im = none, c_re = none, c_im = none;
            vec da_re = none, da_im = none, dc_re = none, dc_im = none;
            for (int64_t i = 0; i < R; i++) {
                da_re += a_re, da_im += a_im, dc_re += c_re, dc_im += c_im;
                STEP(da_re, da_im, none, none);
                STEP(dc_re, dc_im, none, none);
                STEP(a_re, a_im, x[i], none);
                STEP(c_re, c_im, x[W - 1 - i], none);
            }
            for (int64_t n = 0; n < P; n++) {
                const vec gone_a = n ? x[n - 1] : none, gone_c = n ? x[W - n] : none;
                da_re += a_re, da_im += a_im, dc_re += c_re, dc_im += c_im;
                STEP(da_re, da_im, -dqr * gone_a, -dqi * gone_a);
                STEP(dc_re, dc_im, -dqr * gone_c, -dqi * gone_c);
                STEP(a_re, a_im, x[R + n] - qr * gone_a, -qi * gone_a);
                STEP(c_re, c_im, x[W - 1 - R - n] - qr * gone_c, -qi * gone_c);
                const int64_t back = P - 1 - n;
                ar[n] = a_re, ai[n] = a_im, cr[back] = c_re, ci[back] = c_im;
                dar[n] = da_re, dai[n] = da_im, dcr[back] = dc_re, dci[back] = dc_im;
            }

            const REAL sign = j->analytic ? -1 : 1; /* A enters s conjugated in the analytic phase */
            const REAL *grad_m = j->grad_m + v * Q * H + h;
            vec grad_a = none, grad_w = none;
            for (int64_t n = 0; n < P; n++) gr[n] = gi[n] = none;
            for (int64_t n = 0; n < P; n += j->stride) {
                const vec sr = ar[n] + cr[n] - x[R + n], si = ci[n] + sign * ai[n];
                const vec modulus = root(sr * sr + si * si);
                const vec gm = load(grad_m, count) * k.gain;
                grad_m += H;
                vec unit = gm / modulus;
                for (int64_t i = 0; i < VEC; i++) unit[i] = modulus[i] == 0 ? 0 : unit[i]; /* the subgradient at 0 */
                gr[n] = unit * sr, gi[n] = unit * si;
                /* ds/da = -(A' + C') and ds/dw = -j (A' + C'), or with conj(A') and j conj(A') */
                grad_a += gm * modulus * k.gain_a - gr[n] * (dar[n] + dcr[n]) - gi[n] * (sign * dai[n] + dci[n]);
                grad_w += gm * modulus * k.gain_w + gr[n] * (dai[n] + dci[n]) - gi[n] * (sign * dar[n] + dcr[n]);
            }
            store(j->grad_a + v * H + h, grad_a, count);
            store(j->grad_w + v * H + h, grad_w, count);

            /* The adjoint, du[n] = Re sum_k conj(G[n-k]) E_k: the same two recursions, now over G. */
            a_re = a_im = c_re = c_im = none;
            REAL *du = j->grad_u + b * j->num_frames * H + h;
            for (int64_t i = 0; i < W; i++) x[i] = none;
            for (int64_t n = 0; n < P + R; n++) {
                const int64_t back = P - 1 - n, gone = n - R - 1;
                vec in_a_re = none, in_a_im = none, in_c_re = none, in_c_im = none;
                if (n < P) {
                    in_a_re = gr[n], in_a_im = -gi[n], in_c_re = gr[back], in_c_im = -sign * gi[back];
                    x[R + n] -= gr[n]; /* k = 0 is in both */
                }
                if (gone >= 0) {
                    const vec cr_ = gr[P - 1 - gone], ci_ = sign * gi[P - 1 - gone];
                    in_a_re -= qr * gr[gone] + qi * gi[gone], in_a_im -= qi * gr[gone] - qr * gi[gone];
                    in_c_re -= qr * cr_ + qi * ci_, in_c_im -= qi * cr_ - qr * ci_;
                }
                STEP(a_re, a_im, in_a_re, in_a_im);
                STEP(c_re, c_im, in_c_re, in_c_im);
                x[R + n] += a_re, x[R + back] += c_re;
            }
            for (int64_t i = 0; i < W; i++) {
                const int64_t n = start - R + i;
                if (n >= 0 && n < j->num_frames) store(du + n * H, load(du + n * H, count) + x[i], count);
            }
        }
    }
    free(x);
    return 0;
}

/* Do one thread's share of a job; not 0 if there was no memory. */
int NAME(sblu)(const job *j) { return j->grad_u ? NAME(backward_some)(j) : NAME(forward_some)(j); }

/* So that a library built from another version of this file is not loaded. */
const int64_t NAME(sblu_job_bytes) = sizeof(job);

#undef vec
#undef loose
#undef job
#undef kernels
#undef kernels_of
#undef load
#undef store
#undef root
#undef STEP
#undef VEC
#endif
