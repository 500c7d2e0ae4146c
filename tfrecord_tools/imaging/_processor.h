/* What the C modules say to compilers. */

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#define RARELY(condition) __builtin_expect(!!(condition), 0)
#define SOON(address) __builtin_prefetch(address)
#else
#define INLINE static inline
#define RARELY(condition) (condition)
#define SOON(address) ((void)(address))
#endif

/* A function of its own for processors with AVX-512, with AVX2 and for others, chosen when the module is loaded. */
#if defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
