/* The inside of SHA-256 (base/hash.h): n blocks of 64 bytes go into the state. Both give the same.
 */
#ifndef PARE_SRC_BASE_SHA256_BLOCKS_H
#define PARE_SRC_BASE_SHA256_BLOCKS_H

#include <stddef.h>
#include <stdint.h>

void pare_sha256_blocks_plain(uint32_t state[8], const uint8_t *p, size_t n);
/* On processors with PARE_CPU_SHA (base/cpu.h). */
void pare_sha256_blocks_sha(uint32_t state[8], const uint8_t *p, size_t n);

#endif
