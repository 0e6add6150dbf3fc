/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Linux, from user space: registers and interrupt by UIO, memory by u-dma-buf.
 *
 *     struct heatvit_linux system;
 *     struct heatvit_port port;
 *     struct heatvit core;
 *     struct heatvit_linux_paths paths = HEATVIT_LINUX_PATHS;
 *     if (heatvit_linux_open(&system, &paths, &port) == 0 && heatvit_open(&core, &port) == 0)
 *         heatvit_load(&core, file, bytes, &system.memory, 1);
 */

#ifndef HEATVIT_LINUX_H
#define HEATVIT_LINUX_H

#include "heatvit.h"

/* Device files. The interrupt is left out, and the registers are polled, if polled is not 0. */
struct heatvit_linux_paths {
    const char *uio;    /* "/dev/uio0" */
    const char *buffer; /* "/dev/udmabuf0" */
    const char *sysfs;  /* "/sys/class/u-dma-buf/udmabuf0", of the buffer */
    int polled;
};
#define HEATVIT_LINUX_PATHS \
    {"/dev/uio0", "/dev/udmabuf0", "/sys/class/u-dma-buf/udmabuf0", 0}

struct heatvit_linux {
    struct heatvit_memory memory;
    volatile uint32_t *registers;
    int uio, buffer, sync_offset, sync_size, sync_for_cpu, sync_for_device;
    const char *failed; /* the file that could not be opened, read or mapped */
    int reason;         /* errno of that */
};

/* Opens the files and fills the port; 0, or HEATVIT_ERROR_DEVICE: then failed and reason tell more.
 * After an error there is nothing to close. */
int heatvit_linux_open(struct heatvit_linux *system, const struct heatvit_linux_paths *paths,
                       struct heatvit_port *port);

void heatvit_linux_close(struct heatvit_linux *system);

/* Reads a file into memory; null, with errno, if that fails. To be freed. */
void *heatvit_linux_read(const char *path, size_t *bytes);

#endif
