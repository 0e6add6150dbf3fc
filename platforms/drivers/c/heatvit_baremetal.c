/* SPDX-License-Identifier: BSD-2-Clause */
/* Bare metal, see heatvit_baremetal.h. */

#include "heatvit_baremetal.h"

#include <string.h>

static uint32_t read_register(void *context, uint32_t offset)
{
    const struct heatvit_baremetal *system = context;
    return system->registers[offset / 4];
}

static void write_register(void *context, uint32_t offset, uint32_t value)
{
    const struct heatvit_baremetal *system = context;
    /* What was written to memory must be there before the core is told of it. */
    __sync_synchronize();
    system->registers[offset / 4] = value;
}

static uint64_t now(void *context)
{
    const struct heatvit_baremetal *system = context;
    return system->bsp.microseconds();
}

static int wait_for_interrupt(void *context, uint64_t microseconds)
{
    const struct heatvit_baremetal *system = context;
    return system->bsp.interrupt(microseconds);
}

static void flush(void *context, const void *start, size_t bytes)
{
    const struct heatvit_baremetal *system = context;
    system->bsp.flush(start, bytes);
}

static void invalidate(void *context, const void *start, size_t bytes)
{
    const struct heatvit_baremetal *system = context;
    system->bsp.invalidate(start, bytes);
}

void heatvit_baremetal_open(struct heatvit_baremetal *system, uintptr_t registers,
                            const struct heatvit_bsp *bsp, struct heatvit_port *port)
{
    system->registers = (volatile uint32_t *)registers;
    system->bsp = *bsp;
    memset(port, 0, sizeof *port);
    port->context = system;
    port->read = read_register;
    port->write = write_register;
    port->now = now;
    port->interrupt = bsp->interrupt ? wait_for_interrupt : NULL;
    port->flush = bsp->flush ? flush : NULL;
    port->invalidate = bsp->invalidate ? invalidate : NULL;
}

struct heatvit_memory heatvit_baremetal_memory(void *start, size_t bytes)
{
    struct heatvit_memory memory;
    memory.data = start;
    memory.address = (uintptr_t)start;
    memory.bytes = bytes;
    return memory;
}
