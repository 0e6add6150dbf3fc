/* SPDX-License-Identifier: BSD-2-Clause */
/* Linux, from user space, see heatvit_linux.h. */

#define _POSIX_C_SOURCE 200809L

#include "heatvit_linux.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PATH_BYTES 256

/* Registers */

static uint32_t read_register(void *context, uint32_t offset)
{
    const struct heatvit_linux *system = context;
    return system->registers[offset / 4];
}

static void write_register(void *context, uint32_t offset, uint32_t value)
{
    const struct heatvit_linux *system = context;
    /* What was written to memory must be there before the core is told of it. */
    __sync_synchronize();
    system->registers[offset / 4] = value;
}

static uint64_t now(void *context)
{
    struct timespec time;
    (void)context;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000u + (uint64_t)time.tv_nsec / 1000u;
}

static void nap(void *context)
{
    const struct timespec time = {0, 20000};
    (void)context;
    nanosleep(&time, NULL);
}

/* UIO masks an interrupt when it has come: a write of 1 lets the next one, or the one that is still
 * high, through. A read gives the number of interrupts so far, which does not matter here. */
static int wait_for_interrupt(void *context, uint64_t microseconds)
{
    const struct heatvit_linux *system = context;
    const uint64_t milliseconds = microseconds / 1000u + 1u;
    struct pollfd polled = {system->uio, POLLIN, 0};
    uint32_t number = 1;
    if (write(system->uio, &number, sizeof number) != (ssize_t)sizeof number)
        return 0;
    if (poll(&polled, 1, milliseconds > 0x7fffffffu ? 0x7fffffff : (int)milliseconds) <= 0)
        return 0;
    return read(system->uio, &number, sizeof number) == (ssize_t)sizeof number;
}

/* Caches */

static void put_number(int file, uint64_t value)
{
    char text[24];
    const int length = snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    /* A port has no way to tell that this has failed: what is read may then not be what the core
     * has written, or the other way round. The self-test finds wrong answers that come of it; what
     * fails after the self-test is found by nothing. */
    if (pwrite(file, text, (size_t)length, 0) != length)
        return;
}

static void synchronise(const struct heatvit_linux *system, const void *start, size_t bytes,
                        int file)
{
    put_number(system->sync_offset, (uint64_t)((const uint8_t *)start - system->memory.data));
    put_number(system->sync_size, bytes);
    put_number(file, 1);
}

static void flush(void *context, const void *start, size_t bytes)
{
    const struct heatvit_linux *system = context;
    synchronise(system, start, bytes, system->sync_for_device);
}

static void invalidate(void *context, const void *start, size_t bytes)
{
    const struct heatvit_linux *system = context;
    synchronise(system, start, bytes, system->sync_for_cpu);
}

/* Files */

static int failed(struct heatvit_linux *system, const char *path)
{
    const int reason = errno;
    heatvit_linux_close(system);
    system->failed = path;
    system->reason = reason;
    return HEATVIT_ERROR_DEVICE;
}

static int open_attribute(const char *sysfs, const char *name, int flags)
{
    char path[PATH_BYTES];
    if (snprintf(path, sizeof path, "%s/%s", sysfs, name) >= (int)sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    return open(path, flags);
}

static int get_number(const char *sysfs, const char *name, uint64_t *value)
{
    char text[32] = "";
    char *end;
    ssize_t length;
    const int file = open_attribute(sysfs, name, O_RDONLY);
    if (file < 0)
        return -1;
    length = read(file, text, sizeof text - 1);
    close(file);
    *value = strtoull(text, &end, 0);
    if (length > 0 && end != text)
        return 0;
    errno = EINVAL;
    return -1;
}

static void *map(int file, size_t bytes)
{
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    return start == MAP_FAILED ? NULL : start;
}

int heatvit_linux_open(struct heatvit_linux *system, const struct heatvit_linux_paths *paths,
                       struct heatvit_port *port)
{
    uint64_t bytes;
    memset(system, 0, sizeof *system);
    system->uio = system->buffer = -1;
    system->sync_offset = system->sync_size = -1;
    system->sync_for_cpu = system->sync_for_device = -1;

    system->uio = open(paths->uio, O_RDWR | O_SYNC);
    if (system->uio < 0)
        return failed(system, paths->uio);
    system->registers = map(system->uio, HEATVIT_REG_BYTES);
    if (!system->registers)
        return failed(system, paths->uio);

    if (get_number(paths->sysfs, "phys_addr", &system->memory.address) ||
        get_number(paths->sysfs, "size", &bytes))
        return failed(system, paths->sysfs);
    /* Without O_SYNC the buffer is cached: sync_for_device and sync_for_cpu keep it in order. */
    system->buffer = open(paths->buffer, O_RDWR);
    if (system->buffer < 0)
        return failed(system, paths->buffer);
    system->memory.data = map(system->buffer, (size_t)bytes);
    if (!system->memory.data)
        return failed(system, paths->buffer);
    system->memory.bytes = (size_t)bytes;
    system->sync_offset = open_attribute(paths->sysfs, "sync_offset", O_WRONLY);
    system->sync_size = open_attribute(paths->sysfs, "sync_size", O_WRONLY);
    system->sync_for_cpu = open_attribute(paths->sysfs, "sync_for_cpu", O_WRONLY);
    system->sync_for_device = open_attribute(paths->sysfs, "sync_for_device", O_WRONLY);
    if (system->sync_offset < 0 || system->sync_size < 0 || system->sync_for_cpu < 0 ||
        system->sync_for_device < 0)
        return failed(system, paths->sysfs);

    memset(port, 0, sizeof *port);
    port->context = system;
    port->read = read_register;
    port->write = write_register;
    port->now = now;
    port->interrupt = paths->polled ? NULL : wait_for_interrupt;
    port->pause = nap;
    port->flush = flush;
    port->invalidate = invalidate;
    return 0;
}

static void shut(int *file)
{
    if (*file >= 0)
        close(*file);
    *file = -1;
}

void heatvit_linux_close(struct heatvit_linux *system)
{
    if (system->registers)
        munmap((void *)system->registers, HEATVIT_REG_BYTES);
    if (system->memory.data)
        munmap(system->memory.data, system->memory.bytes);
    system->registers = NULL;
    system->memory.data = NULL;
    shut(&system->uio);
    shut(&system->buffer);
    shut(&system->sync_offset);
    shut(&system->sync_size);
    shut(&system->sync_for_cpu);
    shut(&system->sync_for_device);
}

void *heatvit_linux_read(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    void *data = NULL;
    long size;
    if (!file)
        return NULL;
    if (fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) >= 0) {
        rewind(file);
        data = malloc((size_t)size + 1);
        if (data && fread(data, 1, (size_t)size, file) != (size_t)size) {
            free(data);
            data = NULL;
        }
        *bytes = (size_t)size;
    }
    fclose(file);
    return data;
}
