/* Baseline JPEG at 1/1, 1/2, 1/4 or 1/8 of its size, the wanted part of it only: what cameras write and nothing else.

   Reduced images are made of luma of twice the size, halved by a filter: an inverse DCT of a part of the coefficients
   leaves what is finer than the result can show in other places of each block than it came from, as a false pattern.
   Chroma, to which the eye is blind in this, comes from such a DCT.

   The samples are those of libjpeg-turbo's accurate inverse DCT (of its vector instructions, which saturate where its plain
   C wraps around) and fancy upsampling, or there are none: files of another kind, and files that are damaged in any way
   that can be seen, image.py gives to libjpeg-turbo. This decoder is faster because it leaves out what is cropped away and
   takes two codes at once; see benchmarks/README.md. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__ || UINTPTR_MAX < UINT64_MAX
#error "samples are put together in words, sizes in 64 bits; without this module libjpeg-turbo does all of the work"
#endif

#include "_processor.h"
#include "_jpeg_huffman.h"
#include "_jpeg_idct.h"

enum {
    BLOCK = 65 * LANES,    /* coefficients of LANES blocks, and a place for what goes nowhere */
    LONGEST_SIDE = 65500, /* of a image, as libjpeg has it */
    /* What luma of twice the size is halved by, in 256ths, at distances of 1/2, 3/2 and 5/2 samples: 1 +- 0.013 up to a
       quarter of the highest frequency, 0.05 and less from three quarters on, which would come down upon that quarter. */
    NEAR = 119,
    MIDDLE = 26,
    FAR = -17,
    MARGIN = 1 /* rows and columns of the result beyond the asked ones that their samples are made of */
};

/* across, down: blocks in an MCU. steps, dc, ac: which tables are its own. n: samples of a block in each direction. predicted:
   the last block's first coefficient. width, height: samples of the whole image. ring: the samples of the last `kept` rows
   of MCUs, `stride` apart, from the first wanted MCU on. */
typedef struct {
    int across, down, steps, dc, ac, n, predicted, kept;
    Py_ssize_t width, height, stride;
    uint8_t *ring;
    int16_t coefficients[4 * BLOCK];
} Component;

/* What images that are decoded one after the other share. */
typedef struct {
    Huffman dc[4], ac[4];
} Tables;

/* One of the blocks of an MCU. dc_only: no other coefficient counts. lanes: where its coefficients go. */
typedef struct {
    const Huffman *dc, *ac;
    int *predicted, dc_only;
    int16_t *lanes[LANES];
} Block;

typedef struct {
    /* what was asked; in samples of the result */
    int reduction;
    Py_ssize_t left, top, right, bottom;
    uint8_t *out;
    Py_ssize_t out_length;
    Tables *tables;
    /* what the headers say */
    int width, height, interval, jfif, adobe, profiles; /* interval: MCUs between restart markers; adobe: its transform or -1 */
    int has_steps[4], has_dc[4], has_ac[4];
    int16_t steps[4][64]; /* [8][8] */
    Component components[3];
    int blocks_in_mcu;
    Block blocks[6];
    /* the coded data */
    const uint8_t *next, *end;
    uint8_t *unstuffed;
    Bits bits;
    int marker; /* behind the bits */
    Py_ssize_t width_out, height_out; /* of the whole image, reduced */
    int n_out, halved;                /* samples of a block in the result; whether luma has twice as many */
    Py_ssize_t first_mcu, last_mcu;   /* the wanted ones of a row, last_mcu exclusive */
    int16_t *between;                 /* a row of luma at twice the width */
    uint16_t *sums;                   /* one row of chroma */
    uint8_t *rows[3];                 /* of each component, as the result has it */
} Image;

static Py_ssize_t divide_up(Py_ssize_t value, Py_ssize_t by) { return (value + by - 1) / by; }

/* ------------------------------------------------------------------------------------------------------- headers */

static int read_quantization(Image *image, const uint8_t *at, const uint8_t *end) {
    for (; at < end; at += 65) {
        if (end - at < 65 || at[0] > 3) return 0; /* 16 is a table of 16 bits */
        for (int i = 0; i < 64; i++)
            if (!(image->steps[at[0]][zigzag[i]] = at[1 + i])) return 0;
        image->has_steps[at[0]] = 1;
    }
    return 1;
}

static int read_huffman(Image *image, const uint8_t *at, const uint8_t *end) {
    while (at < end) {
        if (end - at < 17 || (at[0] & ~0x13)) return 0;
        int count = 0;
        for (int i = 1; i <= 16; i++) count += at[i];
        if (end - at < 17 + count) return 0;
        int ac = at[0] >> 4, number = at[0] & 3;
        Huffman *table = (ac ? image->tables->ac : image->tables->dc) + number;
        if (!build_huffman(table, at + 1, at + 17, count, ac)) return 0;
        (ac ? image->has_ac : image->has_dc)[number] = 1;
        at += 17 + count;
    }
    return 1;
}

/* ids: of the components, in their order. */
static int read_frame(Image *image, const uint8_t *at, const uint8_t *end, uint8_t *ids) {
    if (end - at != 15 || at[0] != 8 || at[5] != 3 || image->width) return 0; /* 8 bits, three components */
    image->height = at[1] << 8 | at[2];
    image->width = at[3] << 8 | at[4];
    if (image->height < 1 || image->height > LONGEST_SIDE || image->width < 1 || image->width > LONGEST_SIDE) return 0;
    for (int i = 0; i < 3; i++) {
        Component *component = &image->components[i];
        ids[i] = at[6 + 3 * i];
        component->across = at[7 + 3 * i] >> 4;
        component->down = at[7 + 3 * i] & 15;
        component->steps = at[8 + 3 * i];
        if (component->steps > 3 || (i && (component->across != 1 || component->down != 1))) return 0;
    }
    int across = image->components[0].across, down = image->components[0].down;
    return (across == 1 && down == 1) || (across == 2 && (down == 1 || down == 2));
}

static int read_scan(Image *image, const uint8_t *at, const uint8_t *end, const uint8_t *ids) {
    if (end - at != 10 || at[0] != 3 || at[7] != 0 || at[8] != 63 || at[9] != 0 || !image->width) return 0;
    for (int i = 0; i < 3; i++) {
        Component *component = &image->components[i];
        component->dc = at[2 + 2 * i] >> 4;
        component->ac = at[2 + 2 * i] & 15;
        if (at[1 + 2 * i] != ids[i] || component->dc > 3 || component->ac > 3) return 0;
        if (!image->has_dc[component->dc] || !image->has_ac[component->ac] || !image->has_steps[component->steps])
            return 0;
    }
    /* YCbCr, as libjpeg guesses it. */
    if (image->jfif || image->adobe == 1) return 1;
    return image->adobe < 0 && ids[0] == 1 && ids[1] == 2 && ids[2] == 3;
}

/* Everything before the coded data. Returns 0 unless it is a image of the one kind that is decoded here. */
static int read_headers(Image *image) {
    uint8_t ids[3] = {0};
    if (image->end - image->next < 2 || image->next[0] != 0xff || image->next[1] != 0xd8) return 0;
    image->next += 2;
    image->adobe = -1;
    for (;;) {
        const uint8_t *at = image->next;
        if (image->end - at < 4 || at[0] != 0xff) return 0;
        int marker = at[1], length = at[2] << 8 | at[3], sound = 1;
        if (length < 2 || image->end - at < 2 + length) return 0;
        const uint8_t *end = at + 2 + length;
        image->next = end;
        at += 4;
        switch (marker) {
        case 0xc0: sound = read_frame(image, at, end, ids); break;
        case 0xc4: sound = read_huffman(image, at, end); break;
        case 0xda: return read_scan(image, at, end, ids);
        case 0xdb: sound = read_quantization(image, at, end); break;
        case 0xdd:
            sound = length == 4;
            if (sound) image->interval = at[0] << 8 | at[1];
            break;
        case 0xe0:
            if (length >= 16 && !memcmp(at, "JFIF", 5)) image->jfif = sound = at[5] == 1; /* its version */
            break;
        case 0xe2: /* libjpeg checks the numbers of a profile's parts; nearly all have one */
            if (length >= 16 && !memcmp(at, "ICC_PROFILE", 12)) sound = at[12] == 1 && at[13] == 1 && !image->profiles++;
            break;
        case 0xee:
            if (length >= 14 && !memcmp(at, "Adobe", 5)) image->adobe = at[11];
            break;
        default: sound = (marker > 0xe0 && marker < 0xf0) || marker == 0xfe; /* APPn and comments */
        }
        if (!sound) return 0;
    }
}

/* ---------------------------------------------------------------------------------------------------- coded data */

/* Takes the bytes up to the next marker, 0xff 0x00 as 0xff. */
static int next_segment(Image *image) {
    uint8_t *to = image->unstuffed;
    for (;;) {
        const uint8_t *at = image->next, *found = memchr(at, 0xff, (size_t)(image->end - at));
        if (!found || image->end - found < 2) return 0;
        memcpy(to, at, (size_t)(found - at));
        to += found - at;
        image->next = found + 2;
        if ((image->marker = found[1]) != 0) break;
        *to++ = 0xff;
    }
    memset(to, 0, PADDING);
    image->bits = (Bits){image->unstuffed, image->unstuffed, to, 0, 0};
    for (int i = 0; i < 3; i++) image->components[i].predicted = 0;
    return 1;
}

/* All is taken but the bits that fill the last byte. */
static int segment_is_done(const Image *image) {
    int64_t left = 8 * (int64_t)(image->bits.end - image->bits.start) - bits_taken(&image->bits);
    return left >= 0 && left < 8;
}

/* Takes one MCU; if it is wanted, its coefficients go to lane `lane`. */
INLINE int take_mcu(Image *image, const uint16_t *places, int wanted, int lane) {
    Bits bits = image->bits;
    for (int i = 0; i < image->blocks_in_mcu; i++) {
        Block *block = &image->blocks[i];
        int16_t *coefficients = block->lanes[lane];
        int found;
        if (wanted && !block->dc_only)
            found = take_block(&bits, block->dc, block->ac, block->predicted, 1, places, coefficients);
        else
            found = take_block(&bits, block->dc, block->ac, block->predicted, 0, places, coefficients);
        if (!found) return 0;
        if (wanted) coefficients[0] = (int16_t)*block->predicted;
    }
    image->bits = bits;
    return 1;
}

/* The samples of LANES MCUs, of which the first is number `mcu` of the wanted ones of row `row`. */
FOR_EACH_PROCESSOR
static int finish_mcus(Component *component, const int16_t *steps, Py_ssize_t row, Py_ssize_t mcu) {
    int n = component->n, sound = 1;
    for (int v = 0; v < component->down; v++)
        for (int h = 0; h < component->across; h++) {
            int16_t *coefficients = component->coefficients + (v * component->across + h) * BLOCK;
            uint8_t *samples = component->ring + (row % component->kept * component->down + v) * n * component->stride +
                               (mcu * component->across + h * LANES) * n;
            switch (n) {
            case 1: sound &= inverse_dct_1(coefficients, steps[0], samples); break;
            case 2: sound &= inverse_dct(coefficients, steps, 2, samples, (size_t)component->stride); break;
            case 4: sound &= inverse_dct(coefficients, steps, 4, samples, (size_t)component->stride); break;
            case 8: sound &= inverse_dct(coefficients, steps, 8, samples, (size_t)component->stride); break;
            }
        }
    return sound;
}

/* --------------------------------------------------------------------------------------------- upsampling, colour */

/* What is upsampled, before it is: a row, or three parts of it and one of the row beside it. */
FOR_EACH_PROCESSOR
static void sum_rows(const uint8_t *restrict row, const uint8_t *restrict beside, Py_ssize_t count,
                     uint16_t *restrict sums) {
    if (beside)
        for (Py_ssize_t i = 0; i < count; i++) sums[i] = (uint16_t)(3 * row[i] + beside[i]);
    else
        for (Py_ssize_t i = 0; i < count; i++) sums[i] = row[i];
}

/* Twice as many samples: three parts of the nearer and one of the further of the sums. sums: count + 2, one more on either
   side. out: 2 * count. */
FOR_EACH_PROCESSOR
static void double_row(const uint16_t *restrict sums, Py_ssize_t count, int shift, uint8_t *restrict out) {
    int left = shift == 2 ? 1 : 8, right = shift == 2 ? 2 : 7;
    for (Py_ssize_t i = 0; i < count; i++) {
        out[2 * i] = (uint8_t)((3 * sums[i + 1] + sums[i] + left) >> shift);
        out[2 * i + 1] = (uint8_t)((3 * sums[i + 1] + sums[i + 2] + right) >> shift);
    }
}

/* value * factor / 2**16: the whole number below it, and the 16 bits behind that. */
INLINE int16_t high(int16_t value, int16_t factor) { return (int16_t)(value * factor >> 16); }
INLINE uint16_t low(int16_t value, int16_t factor) { return (uint16_t)(value * factor); }

INLINE uint8_t clamp(int16_t value) {
    value = value > 0 ? value : 0;
    return (uint8_t)(value < 255 ? value : 255);
}

/* JFIF's YCbCr -> RGB with constants of 16 bits behind the point, rounded to nearest: 1.40200, -0.34414, -0.71414 and
   1.77200. What is whole of them is added, and so is a carry, because 16 bits are twice as fast as 32. */
FOR_EACH_PROCESSOR
static void to_rgb(const uint8_t *restrict luma, const uint8_t *restrict blue, const uint8_t *restrict red,
                   Py_ssize_t count, uint8_t *restrict out) {
    for (Py_ssize_t i = 0; i < count; i++) {
        int16_t y = luma[i], cb = (int16_t)(blue[i] - 128), cr = (int16_t)(red[i] - 128);
        uint16_t behind = (uint16_t)(low(cb, -22554) + low(cr, 18734));
        int16_t carry = (int16_t)((behind < low(cr, 18734)) + (behind >> 15));
        out[3 * i] = clamp((int16_t)(y + cr + high(cr, 26345) + (low(cr, 26345) >> 15)));
        out[3 * i + 1] = clamp((int16_t)(y - cr + high(cb, -22554) + high(cr, 18734) + carry));
        out[3 * i + 2] = clamp((int16_t)(y + 2 * cb + high(cb, -14942) + (low(cb, -14942) >> 15)));
    }
}

/* Row y of the component, whose samples begin with the first wanted MCU. */
static const uint8_t *sample_row(const Component *component, Py_ssize_t y) {
    return component->ring + y % (component->kept * component->down * component->n) * component->stride;
}

static Py_ssize_t within(Py_ssize_t value, Py_ssize_t end) { return value < 0 ? 0 : value < end ? value : end - 1; }

/* Weighs six rows. */
FOR_EACH_PROCESSOR
static void halve_down(const uint8_t *const rows[6], Py_ssize_t count, int16_t *restrict out) {
    const uint8_t *restrict r0 = rows[0], *restrict r1 = rows[1], *restrict r2 = rows[2];
    const uint8_t *restrict r3 = rows[3], *restrict r4 = rows[4], *restrict r5 = rows[5];
    for (Py_ssize_t i = 0; i < count; i++)
        out[i] = (int16_t)((NEAR * (r2[i] + r3[i]) + MIDDLE * (r1[i] + r4[i]) + FAR * (r0[i] + r5[i]) + 16) >> 5);
}

/* Weighs six columns for every second of them. row: 2 * count + 4. */
FOR_EACH_PROCESSOR
static void halve_across(const int16_t *restrict row, Py_ssize_t count, uint8_t *restrict out) {
    for (Py_ssize_t i = 0; i < count; i++) {
        const int16_t *at = row + 2 * i;
        int sum = (NEAR * (at[2] + at[3]) + MIDDLE * (at[1] + at[4]) + FAR * (at[0] + at[5]) + 1024) >> 11;
        out[i] = (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
    }
}

/* The luma of left..right in row y. */
static const uint8_t *luma_row(Image *image, Py_ssize_t y) {
    const Component *luma = &image->components[0];
    Py_ssize_t origin = image->first_mcu * luma->across * luma->n; /* the column at which its rows begin */
    if (!image->halved) return sample_row(luma, y) + image->left - origin;
    const uint8_t *rows[6];
    /* Two samples more on either side; at the image's edge the last once more. */
    Py_ssize_t first = 2 * image->left - 2, last = 2 * image->right + 2; /* last exclusive */
    Py_ssize_t from = within(first, luma->width), to = last < luma->width ? last : luma->width;
    for (int k = 0; k < 6; k++) rows[k] = sample_row(luma, within(2 * y - 2 + k, luma->height)) + from - origin;
    int16_t *between = image->between;
    halve_down(rows, to - from, between + from - first);
    for (Py_ssize_t x = first; x < from; x++) between[x - first] = between[from - first];
    for (Py_ssize_t x = to; x < last; x++) between[x - first] = between[to - 1 - first];
    halve_across(between, image->right - image->left, image->rows[0]);
    return image->rows[0];
}

/* The samples left..right of chroma in row y, as many as of luma. */
static const uint8_t *chroma_row(Image *image, int which, Py_ssize_t y) {
    const Component *component = &image->components[which], *luma = &image->components[0];
    Py_ssize_t origin = image->first_mcu * component->n;
    if (component->n == luma->across * image->n_out) return sample_row(component, y) + image->left - origin;
    Py_ssize_t first = image->left / 2, count = (image->right + 1) / 2 - first;
    uint8_t *out = image->rows[which];
    int half_as_high = component->n < luma->down * image->n_out;
    Py_ssize_t near = half_as_high ? y / 2 : y, far = within(y % 2 ? near + 1 : near - 1, component->height);
    const uint8_t *row = sample_row(component, near), *beside = sample_row(component, far);
    if (component->n == 1) /* fancy upsampling is for more than a sample of a block */
        for (Py_ssize_t i = 0; i < count; i++) out[2 * i] = out[2 * i + 1] = row[first - origin + i];
    else {
        /* One sample more on either side; at the image's edge the last once more. */
        uint16_t *sums = image->sums;
        Py_ssize_t from = first ? first - 1 : 0, to = first + count < component->width ? first + count + 1 : component->width;
        sum_rows(row + from - origin, half_as_high ? beside + from - origin : NULL, to - from, sums + !first);
        if (!first) sums[0] = sums[1];
        if (to < first + count + 1) sums[count + 1] = sums[count];
        double_row(sums, count, half_as_high ? 4 : 2, out);
    }
    return out + image->left % 2;
}

static void write_rows(Image *image, Py_ssize_t first, Py_ssize_t last) {
    for (Py_ssize_t y = first; y < last; y++)
        to_rgb(luma_row(image, y), chroma_row(image, 1, y), chroma_row(image, 2, y), image->right - image->left,
               image->out + (y * image->width_out + image->left) * 3);
}

/* -------------------------------------------------------------------------------------------------- all of it */

/* number: of the component's blocks in an MCU, row by row. */
static void add_block(Image *image, Component *component, int number) {
    Block *block = &image->blocks[image->blocks_in_mcu++];
    block->dc = &image->tables->dc[component->dc];
    block->ac = &image->tables->ac[component->ac];
    block->predicted = &component->predicted;
    block->dc_only = component->n == 1;
    for (int lane = 0; lane < LANES; lane++) {
        int row = number / component->across, column = lane * component->across + number % component->across;
        block->lanes[lane] =
            component->coefficients + (row * component->across + column / LANES) * BLOCK + column % LANES;
    }
}

/* The sizes of everything, from the headers. */
static void lay_out(Image *image) {
    Component *luma = &image->components[0];
    int n = 8 / image->reduction;
    image->n_out = n;
    image->halved = n < 8;
    image->width_out = divide_up(image->width, image->reduction);
    image->height_out = divide_up(image->height, image->reduction);
    for (int c = 0; c < 3; c++) {
        Component *component = &image->components[c];
        /* As libjpeg: chroma of half the size in both directions gets a larger inverse DCT instead of upsampling. */
        component->n = n < 8 && (c == 0 || (luma->across == 2 && luma->down == 2)) ? 2 * n : n;
        component->width = divide_up((Py_ssize_t)image->width * component->across * component->n, 8 * luma->across);
        component->height = divide_up((Py_ssize_t)image->height * component->down * component->n, 8 * luma->down);
    }
    Py_ssize_t mcu = (Py_ssize_t)luma->across * n, count = divide_up(image->width, 8 * luma->across);
    image->first_mcu = within(image->left / mcu - divide_up(MARGIN, mcu), count);
    image->last_mcu = within(divide_up(image->right, mcu) + divide_up(MARGIN, mcu) - 1, count) + 1;
    for (int c = 0; c < 3; c++) {
        Component *component = &image->components[c];
        component->kept = 2 + MARGIN / (luma->down * n);
        component->stride =
            divide_up(image->last_mcu - image->first_mcu, LANES) * LANES * component->across * component->n;
        for (int i = 0; i < component->down * component->across; i++) add_block(image, component, i);
    }
}

static int allocate(Image *image) {
    image->unstuffed = malloc((size_t)(image->end - image->next) + PADDING);
    int sound = image->unstuffed != NULL;
    size_t columns = (size_t)image->components[0].stride + 2 * MARGIN + 2;
    sound &= (image->between = malloc(columns * sizeof *image->between)) != NULL;
    sound &= (image->sums = malloc(columns * sizeof *image->sums)) != NULL;
    for (int c = 0; c < 3; c++) {
        Component *component = &image->components[c];
        component->ring = malloc((size_t)(component->kept * component->down * component->n) * (size_t)component->stride);
        sound &= component->ring != NULL && (image->rows[c] = malloc(columns)) != NULL;
    }
    return sound;
}

static int decode_scan(Image *image) {
    const Component *luma = &image->components[0], *chroma = &image->components[1];
    Py_ssize_t across = divide_up(image->width, 8 * luma->across), down = divide_up(image->height, 8 * luma->down);
    Py_ssize_t rows = (Py_ssize_t)luma->down * image->n_out; /* of the result in an MCU */
    /* The last row of an MCU waits for the luma, or for the chroma, of the MCU below. */
    Py_ssize_t waiting = image->halved || chroma->n < rows, written = image->top, restart = 0, done = 0;
    uint16_t places[POSITIONS];
    for (int i = 0; i < POSITIONS; i++) places[i] = (uint16_t)((i < 64 ? zigzag[i] : 64) * LANES);
    if (!next_segment(image)) return 0;
    for (Py_ssize_t y = 0; y < down; y++) {
        int wanted_row = (y + 1) * rows + MARGIN > image->top && y * rows - MARGIN < image->bottom;
        int lane = 0;
        for (Py_ssize_t x = 0; x < across; x++) {
            if (image->interval && done == image->interval) {
                if (!segment_is_done(image) || image->marker != 0xd0 + restart % 8 || !next_segment(image)) return 0;
                restart++;
                done = 0;
            }
            done++;
            int wanted = wanted_row && x >= image->first_mcu && x < image->last_mcu;
            if (!take_mcu(image, places, wanted, lane)) return 0;
            if (!wanted) continue;
            if (++lane == LANES || x == image->last_mcu - 1) {
                Py_ssize_t first = x - image->first_mcu - lane + 1;
                for (int c = 0; c < 3; c++) {
                    Component *component = &image->components[c];
                    if (!finish_mcus(component, image->steps[component->steps], y, first)) return 0;
                }
                lane = 0;
            }
        }
        Py_ssize_t ready = y == down - 1 ? image->height_out : (y + 1) * rows - waiting;
        ready = ready < image->bottom ? ready : image->bottom;
        if (wanted_row && ready > written) {
            write_rows(image, written, ready);
            written = ready;
        }
    }
    return segment_is_done(image) && image->marker == 0xd9;
}

static int decode(Image *image) {
    if (image->left < 0 || image->left >= image->right || image->right > LONGEST_SIDE || image->top < 0 ||
        image->top >= image->bottom || image->bottom > LONGEST_SIDE || !read_headers(image))
        return 0;
    lay_out(image);
    if (image->out_length != image->width_out * image->height_out * 3 || image->components[1].width < 3 ||
        image->right > image->width_out || image->bottom > image->height_out)
        return 0;
    int found = allocate(image) && decode_scan(image);
    free(image->unstuffed);
    free(image->between);
    free(image->sums);
    for (int c = 0; c < 3; c++) {
        free(image->rows[c]);
        free(image->components[c].ring);
    }
    return found;
}

typedef struct {
    const uint8_t *data, *end;
} File;

/* The file in a bytes object, which does not change meanwhile. */
static int find_file(PyObject *object, File *file) {
    char *data;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(object, &data, &length)) return 0;
    file->data = (const uint8_t *)data;
    file->end = file->data + length;
    return 1;
}

static PyObject *decode_into(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *object, *result = NULL;
    File file;
    Py_buffer out;
    Image *image = calloc(1, sizeof *image);
    Tables *tables = calloc(1, sizeof *tables);
    if (!image || !tables)
        PyErr_NoMemory();
    else if (PyArg_ParseTuple(arguments, "Oi(nnnn)w*", &object, &image->reduction, &image->left, &image->top,
                              &image->right, &image->bottom, &out)) {
        int found = 0, reduction = image->reduction;
        if (reduction != 1 && reduction != 2 && reduction != 4 && reduction != 8)
            PyErr_Format(PyExc_ValueError, "reduction must be 1, 2, 4 or 8, got %d", reduction);
        else if (find_file(object, &file)) {
            image->next = file.data;
            image->end = file.end;
            image->out = out.buf;
            image->out_length = out.len;
            image->tables = tables;
            Py_BEGIN_ALLOW_THREADS
            found = decode(image);
            Py_END_ALLOW_THREADS
            result = PyBool_FromLong(found);
        }
        PyBuffer_Release(&out);
    }
    free(image);
    free(tables);
    return result;
}

/* Returns how many files are decoded at 1/1 before the first that is not, or not of this size. */
static Py_ssize_t decode_all(Image *image, Tables *tables, const File *files, Py_ssize_t count, Py_ssize_t height,
                             Py_ssize_t width, uint8_t *out) {
    for (Py_ssize_t i = 0; i < count; i++) {
        memset(image, 0, sizeof *image);
        image->next = files[i].data;
        image->end = files[i].end;
        image->reduction = 1;
        image->right = width;
        image->bottom = height;
        image->out_length = height * width * 3;
        image->out = out + i * image->out_length;
        image->tables = tables;
        if (!decode(image)) return i;
    }
    return count;
}

static PyObject *decode_each(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *objects, *result = NULL;
    Py_ssize_t height, width, decoded;
    Py_buffer out;
    if (!PyArg_ParseTuple(arguments, "O!(nn)w*", &PyTuple_Type, &objects, &height, &width, &out)) return NULL;
    Py_ssize_t count = PyTuple_Size(objects);
    File *files = calloc((size_t)count + 1, sizeof *files);
    Image *image = malloc(sizeof *image);
    Tables *tables = calloc(1, sizeof *tables);
    if (!files || !image || !tables) {
        PyErr_NoMemory();
        goto done;
    }
    for (Py_ssize_t i = 0; i < count; i++)
        if (!find_file(PyTuple_GetItem(objects, i), &files[i])) goto done;
    if (height < 1 || height > LONGEST_SIDE || width < 1 || width > LONGEST_SIDE ||
        out.len / (height * width * 3) != count || out.len % (height * width * 3)) {
        PyErr_Format(PyExc_ValueError, "out must be u8[%zd,height,width,3], of 1 to %d rows and columns", count, LONGEST_SIDE);
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    decoded = decode_all(image, tables, files, count, height, width, out.buf);
    Py_END_ALLOW_THREADS
    result = PyLong_FromSsize_t(decoded);
done:
    free(files);
    free(image);
    free(tables);
    PyBuffer_Release(&out);
    return result;
}

static PyMethodDef methods[] = {
    {"decode_into", decode_into, METH_VARARGS,
     "decode_into(data, reduction, (left, top, right, bottom), out) -> whether it is decoded; out: u8[rows, columns, 3]"},
    {"decode_each", decode_each, METH_VARARGS,
     "decode_each(files, (height, width), out) -> how many are decoded before the first that is not; out: u8[N,height,width,3]"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_jpeg", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__jpeg(void) { return PyModule_Create(&definition); }
