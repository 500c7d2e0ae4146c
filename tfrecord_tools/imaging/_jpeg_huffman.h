/* Entropy decoding of baseline JPEG: bits, Huffman codes, the coefficients of a block (ITU-T T.81, annex F.2.2).

   What takes time is the chain from one code to the next, so a table gives up to two coefficients with their values at
   once. Anything out of order ends the decoding; what is to be said of such a file is left to libjpeg-turbo. */

#include <stdint.h>
#include <string.h>

enum {
    LOOK = 11,       /* bits looked up at once; tables for 9 or 12 are slower */
    LANES = 16,      /* blocks whose coefficients lie beside each other, for vector instructions */
    OUTSIDE = 128,   /* added to a position where a block ends early: beyond all of its 64 */
    POSITIONS = 256, /* what the sum of a position and of what an entry adds to it stays below */
    PADDING = 16,    /* zero bytes behind the bits: what is read at once, and as much again */
    LARGEST = 1 << 14 /* DC coefficient; a image's are up to 2047, as are the differences that make it */
};

/* Positions in a block of 8 x 8 in the order of the file. */
static const uint8_t zigzag[64] = {0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
                                   41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
                                   30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

/* The bits of one stretch without markers. next..end: bytes not yet taken; window: the next `held` bits, leftmost first. */
typedef struct {
    const uint8_t *start, *next, *end;
    uint64_t window;
    int held;
} Bits;

/* ac, counts, symbols: the definition. entries: for the next LOOK bits, the one or two codes that lie in them with the bits
   of their values:
   bits 0..5 length of all (0: the first does not fit), 8..15 and 16..23 where the values go, counted from the position
   reached, 24..31 how far the position moves, 32..47 and 48..63 the values.
   codes: for the next LOOK bits, length (0: longer) and symbol << 8. last, offset: by length, for longer codes. */
typedef struct {
    int ac;
    uint8_t counts[16], symbols[256];
    uint64_t entries[1 << LOOK];
    uint16_t codes[1 << LOOK];
    int32_t last[17], offset[17];
} Huffman;

INLINE int magnitude(int value) { return value < 0 ? -value : value; }

/* The value that `size` bits stand for (T.81, F.12). */
INLINE int extend(int bits, int size) { return size && bits < 1 << (size - 1) ? bits - (1 << size) + 1 : bits; }

/* One code with its value, if it lies in the first `have` of the LOOK bits in `look`: the length of both, else 0. at: where
   the value goes, counted from the position reached. move: how far the position moves. */
static int read_entry(const Huffman *table, int ac, unsigned look, int have, int *at, int *move, int *value) {
    int length = table->codes[look] & 31, symbol = table->codes[look] >> 8;
    int size = ac ? symbol & 15 : symbol, run = ac ? symbol >> 4 : 0;
    if (!length || length + size > have) return 0;
    *value = size ? extend((int)((look << length) & ((1u << LOOK) - 1)) >> (LOOK - size), size) : 0;
    *at = run;
    *move = run + 1;
    if (ac && size == 0 && run != 15) *at = *move = OUTSIDE; /* the end of the block; 15: sixteen zeros */
    return length + size;
}

/* counts: codes of each length 1..16. symbols: `count` of them. ac: whether they are run and size, else the size alone, up
   to 11 (T.81, table F.1). Returns 0 if they are none such, or the codes no prefix code. */
static int build_huffman(Huffman *table, const uint8_t *counts, const uint8_t *symbols, int count, int ac) {
    /* Most files of a writer have the same tables, and building one takes as long as decoding a hundred blocks. */
    if (count && table->ac == ac && !memcmp(table->counts, counts, 16) && !memcmp(table->symbols, symbols, (size_t)count))
        return 1;
    int code = 0, index = 0;
    memset(table, 0, sizeof *table);
    if (count > 256) return 0;
    for (int length = 1; length <= 16; length++, code <<= 1) {
        table->offset[length] = index - code;
        for (int i = 0; i < counts[length - 1]; i++, index++, code++) {
            if (code >= (1 << length) - 1 || (!ac && symbols[index] > 11)) return 0; /* none is all ones */
            table->symbols[index] = symbols[index];
            for (int rest = 0; length <= LOOK && rest < 1 << (LOOK - length); rest++)
                table->codes[code << (LOOK - length) | rest] = (uint16_t)(length | symbols[index] << 8);
        }
        table->last[length] = counts[length - 1] ? code - 1 : -1;
    }
    for (unsigned look = 0; look < 1 << LOOK; look++) {
        int at, move, value, at2 = OUTSIDE, move2, value2 = 0;
        int length = read_entry(table, ac, look, LOOK, &at, &move, &value);
        if (length && ac && move < OUTSIDE) {
            unsigned rest = look << length & ((1u << LOOK) - 1);
            int length2 = read_entry(table, ac, rest, LOOK - length, &at2, &move2, &value2);
            if (length2) {
                at2 += move;
                move += move2;
                length += length2;
            }
        }
        if (length)
            table->entries[look] = (uint64_t)length | (uint64_t)at << 8 | (uint64_t)at2 << 16 | (uint64_t)move << 24 |
                                   (uint64_t)(uint16_t)value << 32 | (uint64_t)(uint16_t)value2 << 48;
    }
    table->ac = ac;
    memcpy(table->counts, counts, 16); /* last: what was no table is not taken for one */
    return 1;
}

/* At least 56 bits are held then. Behind the end they are zeros, of which no more than the padding is counted as taken:
   that is enough to tell that the file has ended too early. */
INLINE void fill(Bits *bits) {
    uint64_t bytes = 0;
    for (int i = 0; i < 8; i++) bytes = bytes << 8 | bits->next[i]; /* one load, where the processor can */
    bits->window |= bytes >> bits->held;
    bits->next += (63 - bits->held) >> 3;
    bits->held |= 56;
    if (bits->next > bits->end + 8) bits->next = bits->end + 8;
}

INLINE void drop(Bits *bits, int count) {
    bits->window <<= count & 63;
    bits->held -= count;
}

INLINE int64_t bits_taken(const Bits *bits) { return 8 * (int64_t)(bits->next - bits->start) - bits->held; }

static void seek(Bits *bits, int64_t position) {
    bits->next = bits->start + (position >> 3);
    bits->window = 0;
    bits->held = 0;
    fill(bits);
    drop(bits, (int)(position & 7));
}

/* Takes a code of any length; returns its symbol, -1 if there is none such. */
static int take_symbol(Bits *bits, const Huffman *table) {
    int code = table->codes[bits->window >> (64 - LOOK)], length = code & 31, symbol = code >> 8;
    if (!length) {
        for (length = LOOK + 1; length <= 16; length++) {
            code = (int)(bits->window >> (64 - length));
            if (table->last[length] >= code) break;
        }
        if (length > 16) return -1;
        symbol = table->symbols[(code + table->offset[length]) & 255];
    }
    drop(bits, length);
    return symbol;
}

INLINE int take_value(Bits *bits, int size) {
    if (!size) return 0;
    int value = extend((int)(bits->window >> (64 - size)), size);
    drop(bits, size);
    return value;
}

/* Decodes one block. predicted: the DC coefficient of the one before, becomes this one's. keep: whether the others are
   wanted; then they go to coefficients[places[position in the order of the file]]. Returns 0 if the bits are not a block's. */
INLINE int take_block(Bits *shared, const Huffman *dc, const Huffman *ac, int *predicted, int keep, const uint16_t *places,
                      int16_t *coefficients) {
    Bits bits = *shared; /* in registers */
    fill(&bits);
    uint64_t entry = dc->entries[bits.window >> (64 - LOOK)];
    if (entry) {
        *predicted += (int16_t)(entry >> 32);
        drop(&bits, (int)(entry & 63));
    } else {
        int size = take_symbol(&bits, dc);
        if (size < 0) return 0;
        *predicted += take_value(&bits, size);
    }
    if (magnitude(*predicted) > LARGEST) return 0;
    unsigned position = 1;
    while (position < 64) {
        fill(&bits);
        for (int i = 0; i < 4; i++) { /* 4 * LOOK bits, of the 56 */
            entry = ac->entries[bits.window >> (64 - LOOK)];
            if (RARELY(!entry)) goto one;
            drop(&bits, (int)(entry & 63));
            if (keep) {
                coefficients[places[position + (entry >> 8 & 255)]] = (int16_t)(entry >> 32);
                coefficients[places[position + (entry >> 16 & 255)]] = (int16_t)(entry >> 48);
            }
            position += entry >> 24 & 255;
            if (position >= 64) break;
        }
        if (RARELY(position > 64 && (position <= OUTSIDE || position >= OUTSIDE + 64))) {
            /* Two codes were taken, and the second was not this block's any more. */
            position -= entry >> 24 & 255;
            seek(&bits, bits_taken(&bits) - (int64_t)(entry & 63));
            goto one;
        }
        continue;
    one:
        fill(&bits);
        int symbol = take_symbol(&bits, ac);
        if (symbol < 0) return 0;
        int size = symbol & 15, run = symbol >> 4;
        if (size == 0 && run != 15) break;
        position += (unsigned)run;
        int value = take_value(&bits, size);
        if (keep) coefficients[places[position]] = (int16_t)value;
        position++;
        if (position > 64) return 0;
    }
    *shared = bits;
    return 1;
}
