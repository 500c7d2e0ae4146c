/* The two passes of tfrecord_tools/imaging/resample.py: bit-identical to its NumPy code in a third of the time.

   Every inner loop has a fixed number of floats, so that compilers vectorize it. All sums are of integers (divided by a
   power of two) below 2**24, exact in float32: neither their order nor fused operations matter. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <stdint.h>
#include <stdlib.h>

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define INLINE static inline
#define PREFETCH(address) ((void)(address))
#endif

/* Clones for AVX-512, AVX2 and other processors, selected when the module is loaded. */
#if defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

#if FLT_EVAL_METHOD != 0 || defined(__FAST_MATH__)
#error "nearest() needs float arithmetic that rounds to float32; without this module NumPy does the work"
#endif

enum {
    ROWS = 16,         /* output rows computed together */
    STRIP = 64,        /* values of a row summed in registers */
    AHEAD = 3 * STRIP, /* prefetch distance in values */
};

/* Weights of each output for `taps` inputs from first[output] on. */
typedef struct {
    const int32_t *first;
    const float *weights;
    Py_ssize_t outputs, taps;
} Band;

/* Rounds |value| < 2**22 half to even: floats from 2**23 on have no fraction. */
INLINE float nearest(float value) { return (value + 12582912.0f) - 12582912.0f; }

/* out[i] = nearest(sum over k < taps of weights[k] * in[k * count + i]); count: at most STRIP, a constant. */
INLINE void weigh(const float *restrict in, const float *restrict weights, Py_ssize_t taps, int count,
                  float *restrict out) {
    float sums[STRIP] = {0};
    for (Py_ssize_t k = 0; k < taps; k++, in += count)
        for (int i = 0; i < count; i++) sums[i] += weights[k] * in[i];
    for (int i = 0; i < count; i++) out[i] = nearest(sums[i]);
}

/* f32[columns][channels][ROWS] -> u8[outputs][channels][ROWS]; count: channels * ROWS. */
INLINE void along_rows(const float *restrict turned, Band band, int count, uint8_t *restrict out) {
    for (Py_ssize_t x = 0; x < band.outputs; x++) {
        float sums[STRIP];
        weigh(turned + (band.first[x] - band.first[0]) * count, band.weights + x * band.taps, band.taps, count, sums);
        for (int i = 0; i < count; i++) {
            int value = (int)sums[i];
            value = value > 0 ? value : 0;
            out[x * count + i] = (uint8_t)(value < 255 ? value : 255);
        }
    }
}

/* Resamples down the columns of `values` bytes, ROWS output rows at a time, and then along those rows.
   Buffers: widened, the input rows of ROWS output rows; turned, ROWS transposed rows after the first pass; finished,
   ROWS transposed rows of the result. */
FOR_EACH_PROCESSOR
static void resample(const uint8_t *restrict pixels, Py_ssize_t stride, Py_ssize_t values, int channels, Band rows,
                     Band columns, float *restrict widened, float *restrict turned, uint8_t *restrict finished,
                     uint8_t *restrict out) {
    Py_ssize_t width = columns.outputs * channels;
    float strip[ROWS][STRIP] = {{0}};
    for (Py_ssize_t top = 0; top < rows.outputs; top += ROWS) {
        Py_ssize_t count = rows.outputs - top < ROWS ? rows.outputs - top : ROWS;
        const int32_t *first = rows.first + top;
        Py_ssize_t taken = first[count - 1] + rows.taps - first[0];
        for (Py_ssize_t x = 0; x < values; x += STRIP) {
            int wide = values - x < STRIP ? (int)(values - x) : STRIP;
            const uint8_t *row = pixels + first[0] * stride + x;
            for (Py_ssize_t k = 0; k < taken; k++, row += stride)
                if (wide == STRIP) {
                    PREFETCH(row + AHEAD); /* hardware prefetchers do not follow steps from row to row */
                    for (int i = 0; i < STRIP; i++) widened[k * STRIP + i] = row[i];
                } else
                    for (int i = 0; i < wide; i++) widened[k * STRIP + i] = row[i];
            for (Py_ssize_t y = 0; y < count; y++)
                weigh(widened + (first[y] - first[0]) * STRIP, rows.weights + (top + y) * rows.taps, rows.taps, STRIP,
                      strip[y]);
            for (int i = 0; i < wide; i++)
                for (int y = 0; y < ROWS; y++) turned[(x + i) * ROWS + y] = strip[y][i];
        }
        switch (channels) {
        case 1: along_rows(turned, columns, 1 * ROWS, finished); break;
        case 3: along_rows(turned, columns, 3 * ROWS, finished); break;
        case 4: along_rows(turned, columns, 4 * ROWS, finished); break;
        }
        for (Py_ssize_t y = 0; y < count; y++)
            for (Py_ssize_t i = 0; i < width; i++) out[(top + y) * width + i] = finished[i * ROWS + y];
    }
}

/* Fills a Band from i32[outputs] and f32[outputs, taps]; returns 0 with an exception set if they leave the input. */
static int read_band(const Py_buffer *first, const Py_buffer *weights, Py_ssize_t length, Band *band) {
    band->first = first->buf;
    band->weights = weights->buf;
    band->outputs = first->len / (Py_ssize_t)sizeof(int32_t);
    band->taps = band->outputs ? weights->len / (Py_ssize_t)sizeof(float) / band->outputs : 0;
    int sound = band->taps > 0;
    for (Py_ssize_t i = 0; sound && i < band->outputs; i++)
        sound = band->first[i] >= (i ? band->first[i - 1] : 0) && band->first[i] + band->taps <= length;
    if (!sound) PyErr_SetString(PyExc_ValueError, "weights address pixels outside the image");
    return sound;
}

static PyObject *resample_into(PyObject *module, PyObject *arguments) {
    (void)module;
    Py_buffer pixels, rows_first, rows_weights, columns_first, columns_weights, out;
    Py_ssize_t height, width;
    int channels;
    if (!PyArg_ParseTuple(arguments, "y*(nni)(y*y*)(y*y*)w*", &pixels, &height, &width, &channels, &rows_first, &rows_weights,
                          &columns_first, &columns_weights, &out))
        return NULL;
    Band rows, columns;
    float *widened = NULL, *turned = NULL;
    uint8_t *finished = NULL;
    if (!read_band(&rows_first, &rows_weights, height, &rows) ||
        !read_band(&columns_first, &columns_weights, width, &columns))
        goto done;
    /* Divided, because products may overflow. Neither length is zero: each has a weight. */
    if ((channels != 1 && channels != 3 && channels != 4) || pixels.len % channels || pixels.len / channels % width ||
        pixels.len / channels / width != height ||
        out.len != rows.outputs * columns.outputs * channels) {
        PyErr_SetString(PyExc_ValueError, "expected pixels and result as bytes of [rows, columns, 1, 3 or 4 channels]");
        goto done;
    }
    Py_ssize_t most = 0;
    for (Py_ssize_t top = 0; top < rows.outputs; top += ROWS) {
        Py_ssize_t last = (top + ROWS < rows.outputs ? top + ROWS : rows.outputs) - 1;
        Py_ssize_t taken = rows.first[last] + rows.taps - rows.first[top];
        most = taken > most ? taken : most;
    }
    Py_ssize_t left = columns.first[0], right = columns.first[columns.outputs - 1] + columns.taps;
    Py_ssize_t values = (right - left) * channels;
    /* Zeroed: the last strip of a row is summed in full, although only `values` are used. */
    widened = calloc((size_t)(most * STRIP), sizeof(float));
    turned = malloc((size_t)(values * ROWS) * sizeof(float));
    finished = malloc((size_t)(columns.outputs * channels * ROWS));
    if (!widened || !turned || !finished) {
        PyErr_NoMemory();
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    resample((const uint8_t *)pixels.buf + left * channels, width * channels, values, channels, rows, columns, widened,
             turned, finished, out.buf);
    Py_END_ALLOW_THREADS
done:
    free(widened);
    free(turned);
    free(finished);
    PyBuffer_Release(&pixels);
    PyBuffer_Release(&rows_first);
    PyBuffer_Release(&rows_weights);
    PyBuffer_Release(&columns_first);
    PyBuffer_Release(&columns_weights);
    PyBuffer_Release(&out);
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"resample_into", resample_into, METH_VARARGS,
     "resample_into(pixels, (height, width, channels), (first, weights) of rows, (first, weights) of columns, out)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_resample", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__resample(void) { return PyModule_Create(&definition); }
