/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Bare metal: registers at an address; caches, time and the interrupt as the board support package
 * has them. Memory is where the processor and the core see it at the same address, e.g. an array
 * that is aligned to 4096 bytes.
 */

#ifndef HEATVIT_BAREMETAL_H
#define HEATVIT_BAREMETAL_H

#include "heatvit.h"

/* What the board support package does. With the one of AMD for the Cortex-A53:
 *     flush              Xil_DCacheFlushRange((INTPTR)start, bytes)
 *     invalidate         Xil_DCacheInvalidateRange((INTPTR)start, bytes)
 *     microseconds       XTime_GetTime, over COUNTS_PER_SECOND / 1000000
 * flush and invalidate are null where caches are off or coherent. */
struct heatvit_bsp {
    void (*flush)(const void *start, size_t bytes);
    void (*invalidate)(const void *start, size_t bytes);
    uint64_t (*microseconds)(void);
    /* Waits for the interrupt, e.g. with WFI until its handler has run; not 0 if it came. The line
     * stays high until the driver has acknowledged it: the handler must mask it, this function
     * unmasks it at its start. Null to poll the registers. */
    int (*interrupt)(uint64_t microseconds);
};

struct heatvit_baremetal {
    volatile uint32_t *registers;
    struct heatvit_bsp bsp;
};

/* Fills the port of the core whose registers are at an address; system must stay. */
void heatvit_baremetal_open(struct heatvit_baremetal *system, uintptr_t registers,
                            const struct heatvit_bsp *bsp, struct heatvit_port *port);

/* Returns memory that the processor and the core see at the same address. */
struct heatvit_memory heatvit_baremetal_memory(void *start, size_t bytes);

#endif
