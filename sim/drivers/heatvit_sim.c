/* SPDX-License-Identifier: BSD-2-Clause */
/* The simulated core as a port of the driver, see heatvit_sim.h. */

#define _POSIX_C_SOURCE 200809L

#include "heatvit_sim.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Above 4 GiB, so that all address bits matter. */
#define BASE 0x1240000000u
/* Cycles between two polls. */
#define PAUSE 200

static void die(const char *what)
{
    fprintf(stderr, "simulation: %s\n", what);
    exit(3);
}

/* Reads up to a line that begins with word, and returns the rest of it. */
static const char *answer(struct heatvit_sim *sim, const char *word)
{
    static char line[256];
    const size_t length = strlen(word);
    fflush(sim->to);
    while (fgets(line, sizeof line, sim->from)) {
        if (!strncmp(line, word, length) && line[length] == ' ')
            return line + length + 1;
        if (!strncmp(line, "fault", 5))
            die(line);
    }
    die("ended before it has answered");
    return NULL;
}

static uint64_t value(struct heatvit_sim *sim)
{
    const char *rest = strchr(answer(sim, "value"), ' ');
    return rest ? strtoull(rest, NULL, 0) : 0;
}

static uint32_t read_register(void *context, uint32_t offset)
{
    struct heatvit_sim *sim = context;
    fprintf(sim->to, "read %u r\n", (unsigned)offset);
    return (uint32_t)value(sim);
}

static void write_register(void *context, uint32_t offset, uint32_t number)
{
    struct heatvit_sim *sim = context;
    fprintf(sim->to, "write %u %u\n", (unsigned)offset, (unsigned)number);
}

static uint64_t now(void *context)
{
    struct heatvit_sim *sim = context;
    uint64_t cycles;
    int i;
    fprintf(sim->to, "count\n");
    cycles = value(sim);
    for (i = 0; i < 3; i++) /* bytes read, bytes written, accesses */
        value(sim);
    return cycles / sim->cycles_per_microsecond;
}

static void let_pass(void *context)
{
    struct heatvit_sim *sim = context;
    fprintf(sim->to, "wait %d\n", PAUSE);
}

static int wait_for_interrupt(void *context, uint64_t microseconds)
{
    struct heatvit_sim *sim = context;
    fprintf(sim->to, "await %llu i\n",
            (unsigned long long)microseconds * sim->cycles_per_microsecond);
    return value(sim) != 0;
}

/* Copies a part of memory to the core or back, through a file. */
static void copy(struct heatvit_sim *sim, size_t offset, size_t bytes, int to_core)
{
    const unsigned long long address = sim->memory.address + offset;
    uint8_t *part = sim->memory.data + offset;
    FILE *file = to_core ? fopen(sim->file, "wb") : NULL;
    if (to_core && (!file || fwrite(part, 1, bytes, file) != bytes || fclose(file)))
        die("the file for memory cannot be written");
    if (to_core)
        fprintf(sim->to, "load %s %llu\nmark copied\n", sim->file, address);
    else
        fprintf(sim->to, "dump %s %llu %zu\nmark copied\n", sim->file, address, bytes);
    answer(sim, "mark");
    if (to_core)
        return;
    file = fopen(sim->file, "rb");
    if (!file || fread(part, 1, bytes, file) != bytes)
        die("the file for memory cannot be read");
    fclose(file);
}

static size_t offset_of(const struct heatvit_sim *sim, const void *start)
{
    return (size_t)((const uint8_t *)start - sim->memory.data);
}

static void flush(void *context, const void *start, size_t bytes)
{
    copy(context, offset_of(context, start), bytes, 1);
}

static void invalidate(void *context, const void *start, size_t bytes)
{
    copy(context, offset_of(context, start), bytes, 0);
}

void heatvit_sim_command(struct heatvit_sim *sim, const char *command)
{
    fprintf(sim->to, "%s\n", command);
}

void heatvit_sim_open(struct heatvit_sim *sim, const char *program, size_t memory_bytes,
                      struct heatvit_port *port, int polled)
{
    int commands[2], answers[2], file;
    memset(sim, 0, sizeof *sim);
    strcpy(sim->file, "memory-XXXXXX");
    file = mkstemp(sim->file);
    if (file < 0 || pipe(commands) || pipe(answers))
        die("no pipes");
    close(file);
    sim->process = fork();
    if (sim->process < 0)
        die("no process");
    if (sim->process == 0) {
        dup2(commands[0], 0);
        dup2(answers[1], 1);
        close(commands[1]);
        close(answers[0]);
        execl(program, program, "/dev/stdin", (char *)NULL);
        _exit(127);
    }
    close(commands[0]);
    close(answers[1]);
    sim->to = fdopen(commands[1], "w");
    sim->from = fdopen(answers[0], "r");
    sim->cycles_per_microsecond = 300;
    sim->memory.data = malloc(memory_bytes);
    if (!sim->to || !sim->from || !sim->memory.data)
        die("no memory");
    sim->memory.address = BASE;
    sim->memory.bytes = memory_bytes;
    memset(sim->memory.data, 0xa5, memory_bytes);
    fprintf(sim->to, "memory %llu %zu rw\n", (unsigned long long)BASE, memory_bytes);

    memset(port, 0, sizeof *port);
    port->context = sim;
    port->read = read_register;
    port->write = write_register;
    port->now = now;
    port->interrupt = polled ? NULL : wait_for_interrupt;
    port->pause = let_pass;
    port->flush = flush;
    port->invalidate = invalidate;
}

void heatvit_sim_close(struct heatvit_sim *sim)
{
    int status = 0;
    fclose(sim->to);
    waitpid(sim->process, &status, 0);
    fclose(sim->from);
    remove(sim->file);
    free(sim->memory.data);
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        die("ended with a fault");
}
