/* What the processor and the operating system offer, found once. */
#include "base/cpu.h"

#include <string.h>

static const char *const isa_names[PARE_ISA_COUNT] = {"ref", "avx2", "avx512", "amx"};

const char *pare_isa_name(pare_isa isa) {
    return (unsigned)isa < PARE_ISA_COUNT ? isa_names[isa] : "unknown";
}

pare_status pare_isa_parse(pare_isa *isa, const char *name, pare_error *err) {
    for (int i = 0; i < PARE_ISA_COUNT; i++)
        if (strcmp(name, isa_names[i]) == 0) {
            *isa = (pare_isa)i;
            return PARE_OK;
        }
    return pare_fail(err, PARE_ERR_ARG, "isa: found '%s', expected ref, avx2, avx512 or amx", name);
}

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint64_t xgetbv0(void) {
    uint32_t a, d;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return (uint64_t)d << 32 | a;
}

/* Linux hands out the 8 KiB of tile state only on request. */
static bool request_amx(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

static unsigned detect(void) {
    uint32_t a, b, c, d, max = __get_cpuid_max(0, NULL);
    if (max < 7) return 0;
    __cpuid(1, a, b, c, d);
    unsigned f = (c & bit_PCLMUL) && (c & bit_SSE4_1) ? PARE_CPU_PCLMUL : 0;
    bool fma = c & bit_FMA, f16c = c & bit_F16C, osxsave = c & bit_OSXSAVE;
    if (!osxsave || !(c & bit_AVX)) return f;
    uint64_t xcr0 = xgetbv0();
    if ((xcr0 & 6) != 6) return f; /* the system saves ymm registers */
    __cpuid_count(7, 0, a, b, c, d);
    uint32_t b7 = b, c7 = c, d7 = d;
    __cpuid_count(7, 1, a, b, c, d);
    uint32_t a71 = a;
    if (b7 & 1u << 29) f |= PARE_CPU_SHA;
    if ((b7 & 1u << 5) && fma && f16c) f |= PARE_CPU_AVX2;
    const uint32_t avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F DQ BW VL */
    if ((f & PARE_CPU_AVX2) && (b7 & avx512) == avx512 && (c7 & 1u << 11) && (xcr0 & 0xE6) == 0xE6)
        f |= PARE_CPU_AVX512;
    if ((f & PARE_CPU_AVX512) && (a71 & 1u << 5)) f |= PARE_CPU_AVX512_BF16;
    const uint32_t vbmi = 1u << 1 | 1u << 6; /* VBMI VBMI2 */
    if ((f & PARE_CPU_AVX512) && (c7 & vbmi) == vbmi) f |= PARE_CPU_AVX512_VBMI2;
    const uint32_t amx = 1u << 22 | 1u << 24 | 1u << 25; /* bf16, tile, int8 */
    if ((f & PARE_CPU_AVX512_BF16) && (d7 & amx) == amx && (xcr0 & 0x60000) == 0x60000 &&
        request_amx())
        f |= PARE_CPU_AMX;
    return f;
}

static void read_name(char out[49]) {
    uint32_t r[12];
    if ((unsigned)__get_cpuid_max(0x80000000, NULL) < 0x80000004) return; /* clang: int */
    for (uint32_t i = 0; i < 3; i++)
        __cpuid(0x80000002 + i, r[4 * i], r[4 * i + 1], r[4 * i + 2], r[4 * i + 3]);
    memcpy(out, r, 48);
    out[48] = '\0';
    size_t lead = strspn(out, " "), n = strlen(out + lead);
    memmove(out, out + lead, n + 1);
    while (n && out[n - 1] == ' ') out[--n] = '\0';
}
#else
static unsigned detect(void) { return 0; }
static void read_name(char out[49]) { strcpy(out, "unknown"); }
#endif

static unsigned features;
static char name[49] = "unknown";

__attribute__((constructor)) static void find_features(void) {
    features = detect();
    read_name(name);
}

unsigned pare_cpu_features(void) { return features; }

const char *pare_cpu_name(void) { return name; }

pare_isa pare_isa_best(void) {
    if (features & PARE_CPU_AMX) return PARE_ISA_AMX;
    if (features & PARE_CPU_AVX512) return PARE_ISA_AVX512;
    if (features & PARE_CPU_AVX2) return PARE_ISA_AVX2;
    return PARE_ISA_REF;
}
