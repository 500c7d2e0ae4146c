/* Inverse DCT of LANES blocks at once to 8 x 8, 4 x 4, 2 x 2 or 1 x 1 samples, the whole numbers of libjpeg-turbo's
   accurate method (jidctint.c and jidctred.c: Loeffler, Ligtenberg and Moschytz, ICASSP 1989, with constants of 13 bits).
   Rounding is only at the end of each of the two passes, so the order of the sums does not matter. */

#include <stdint.h>

typedef uint32_t Lanes[LANES]; /* negative numbers as their complement: sums of damaged blocks may overflow */

enum {
    CONSTANT_BITS = 13,
    BETWEEN_BITS = 2, /* kept of the fraction between the passes */
    /* The magnitudes of a block's coefficients may sum to so much: libjpeg-turbo's vector instructions keep 16 bits between
       the passes, where a coefficient counts up to sqrt(2) cos(pi / 16) = 1.387 times, 5800 * 1.387 * 2^2 < 2^15. */
    MOST = 5800,
    MOST_ALONE = 4088 /* beyond that the sample of a single coefficient leaves libjpeg's table */
};

#define EACH for (int i = 0; i < LANES; i++)

/* One pass of n positions from 8: in[0..7], out[0..n-1], rounded after a shift to the right. */

INLINE uint32_t shifted(uint32_t value, int shift) { return (uint32_t)((int32_t)value >> shift); }

INLINE void pass_8(const Lanes *in, Lanes *out, int stride, int shift) {
    EACH {
        uint32_t x0 = in[0][i], x1 = in[1][i], x2 = in[2][i], x3 = in[3][i];
        uint32_t x4 = in[4][i], x5 = in[5][i], x6 = in[6][i], x7 = in[7][i];
        uint32_t rounding = 1u << (shift - 1);
        /* even positions: a turn by 3 pi / 8 of x2 and x6 */
        uint32_t turned = (x2 + x6) * 4433;
        uint32_t a = turned + x2 * 6270, b = turned - x6 * 15137;
        uint32_t sum = (x0 + x4) * (1u << CONSTANT_BITS) + rounding, difference = (x0 - x4) * (1u << CONSTANT_BITS) + rounding;
        uint32_t even0 = sum + a, even3 = sum - a, even1 = difference + b, even2 = difference - b;
        /* odd positions */
        uint32_t all = (x1 + x3 + x5 + x7) * 9633;
        uint32_t outer = (x7 + x1) * -7373, inner = (x5 + x3) * -20995;
        uint32_t p = all + (x7 + x3) * -16069, q = all + (x5 + x1) * -3196;
        uint32_t odd0 = x1 * 12299 + outer + q, odd1 = x3 * 25172 + inner + p;
        uint32_t odd2 = x5 * 16819 + inner + q, odd3 = x7 * 2446 + outer + p;
        out[0 * stride][i] = shifted(even0 + odd0, shift);
        out[7 * stride][i] = shifted(even0 - odd0, shift);
        out[1 * stride][i] = shifted(even1 + odd1, shift);
        out[6 * stride][i] = shifted(even1 - odd1, shift);
        out[2 * stride][i] = shifted(even2 + odd2, shift);
        out[5 * stride][i] = shifted(even2 - odd2, shift);
        out[3 * stride][i] = shifted(even3 + odd3, shift);
        out[4 * stride][i] = shifted(even3 - odd3, shift);
    }
}

INLINE void pass_4(const Lanes *in, Lanes *out, int stride, int shift) {
    EACH {
        uint32_t x1 = in[1][i], x3 = in[3][i], x5 = in[5][i], x7 = in[7][i];
        uint32_t middle = in[0][i] * (2u << CONSTANT_BITS) + (1u << (shift - 1));
        uint32_t turned = in[2][i] * 15137 - in[6][i] * 6270;
        uint32_t inner = x1 * 8697 - x3 * 17799 + x5 * 11893 - x7 * 1730;
        uint32_t outer = x1 * 20995 + x3 * 7373 - x5 * 4926 - x7 * 4176;
        out[0 * stride][i] = shifted(middle + turned + outer, shift);
        out[3 * stride][i] = shifted(middle + turned - outer, shift);
        out[1 * stride][i] = shifted(middle - turned + inner, shift);
        out[2 * stride][i] = shifted(middle - turned - inner, shift);
    }
}

INLINE void pass_2(const Lanes *in, Lanes *out, int stride, int shift) {
    EACH {
        uint32_t middle = in[0][i] * (4u << CONSTANT_BITS) + (1u << (shift - 1));
        uint32_t odd = in[1][i] * 29692 - in[3][i] * 10426 + in[5][i] * 6967 - in[7][i] * 5906;
        out[0][i] = shifted(middle + odd, shift);
        out[stride][i] = shifted(middle - odd, shift);
    }
}

INLINE void one_pass(const Lanes *in, Lanes *out, int n, int stride, int shift) {
    /* The shorter ones are larger by 2 for each halving, to be divided at the end. */
    if (n == 8) pass_8(in, out, stride, shift);
    if (n == 4) pass_4(in, out, stride, shift + 1);
    if (n == 2) pass_2(in, out, stride, shift + 2);
}

INLINE uint32_t to_sample(uint32_t centred) {
    int32_t value = (int32_t)centred + 128;
    return (uint32_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* Whether all of a column's coefficients are zero, as most columns of high frequencies are. */
INLINE int is_zero(const int16_t *column) {
    uint64_t any = 0; /* words are quicker to take together than values */
    for (int y = 0; y < 8; y++) {
        uint64_t words[LANES / 4];
        memcpy(words, column + y * 8 * LANES, sizeof words);
        for (int i = 0; i < LANES / 4; i++) any |= words[i];
    }
    return !any;
}

/* The samples of LANES blocks of which only the first coefficient counts. */
INLINE int inverse_dct_1(int16_t *coefficients, int step, uint8_t *samples) {
    int sound = 1;
    EACH {
        int32_t value = coefficients[i] * step;
        coefficients[i] = 0;
        samples[i] = (uint8_t)to_sample(shifted((uint32_t)value + 4, 3));
        sound &= magnitude(value) < MOST_ALONE;
    }
    return sound;
}

/* coefficients: of LANES blocks, [8 rows][8 columns][LANES], zero afterwards. steps: the quantization table, [8][8]. n: 2, 4
   or 8, known when compiled. samples: n rows of n * LANES, `width` apart. Returns 0 if the coefficients are too large for a
   image's; then the samples mean nothing. */
INLINE int inverse_dct(int16_t *coefficients, const int16_t *steps, int n, uint8_t *samples, size_t width) {
    Lanes rows[8 * 8], finished[8];
    int32_t sums[LANES] = {0};
    for (int x = 0; x < 8; x++) {
        int used = n == 8 || (n == 4 && x != 4) || (n == 2 && (x == 0 || x % 2));
        if (is_zero(coefficients + x * LANES)) {
            for (int y = 0; y < n; y++) EACH rows[y * 8 + x][i] = 0;
            continue;
        }
        Lanes column[8];
        for (int y = 0; y < 8; y++) {
            int16_t *row = coefficients + (y * 8 + x) * LANES;
            int32_t step = steps[y * 8 + x];
            EACH {
                int32_t value = row[i] * step;
                row[i] = 0;
                column[y][i] = (uint32_t)value;
                sums[i] += magnitude(value);
            }
        }
        if (used) one_pass(column, rows + x, n, 8, CONSTANT_BITS - BETWEEN_BITS);
    }
    for (int y = 0; y < n; y++, samples += width) {
        one_pass(rows + y * 8, finished, n, 1, CONSTANT_BITS + BETWEEN_BITS + 3);
        /* n samples of a block in one word, the first in its lowest byte. */
        if (n == 2) {
            uint16_t words[LANES];
            EACH words[i] = (uint16_t)(to_sample(finished[0][i]) | to_sample(finished[1][i]) << 8);
            memcpy(samples, words, sizeof words);
        } else {
            uint32_t words[2 * LANES];
            for (int half = 0; half < n / 4; half++)
                EACH words[i * (n / 4) + half] =
                    to_sample(finished[4 * half][i]) | to_sample(finished[4 * half + 1][i]) << 8 |
                    to_sample(finished[4 * half + 2][i]) << 16 | to_sample(finished[4 * half + 3][i]) << 24;
            memcpy(samples, words, sizeof(uint32_t) * LANES * (size_t)(n / 4));
        }
    }
    int sound = 1;
    EACH sound &= sums[i] <= MOST;
    return sound;
}
