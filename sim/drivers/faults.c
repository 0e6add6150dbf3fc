/* SPDX-License-Identifier: BSD-2-Clause */
/* faults SIMULATOR MODEL CASE: what the driver says when something is wrong, and that the next
 * image is right. Each case prints the sentences that it has seen. */

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "heatvit_linux.h"
#include "heatvit_sim.h"

#define SECOND 1000000u

static struct heatvit_sim sim;
static struct heatvit_port port;
static struct heatvit core;
static uint8_t *file;
static size_t bytes;

static void sees(int code, int expected)
{
    char text[HEATVIT_MESSAGE_BYTES];
    printf("%d %s\n", code, code ? heatvit_message(&core, text, sizeof text) : "no error");
    fflush(stdout);
    CHECK(code == expected && code == core.error);
}

static void works(void)
{
    struct heatvit_counters counters;
    uint64_t sum = 0;
    unsigned int cause;
    CHECK(heatvit_self_test(&core, SECOND) == 0);
    heatvit_read_counters(&core, &counters);
    for (cause = 0; cause < HEATVIT_STALLS; cause++)
        sum += counters.stalls[cause];
    CHECK(sum == counters.cycles && counters.cycles > 0 && counters.images_done == 1);
}

static void start(uint32_t images)
{
    CHECK(heatvit_open(&core, &port) == 0);
    CHECK(heatvit_load(&core, file, bytes, &sim.memory, images) == 0);
}

/* The answers of the run before must not be taken for those of one that has failed. */
static void no_answer(void)
{
    struct heatvit_result result;
    uint32_t tokens, patches;
    uint8_t kept;
    CHECK(heatvit_result(&core, 0, &result) == HEATVIT_ERROR_NO_ANSWER);
    CHECK(heatvit_selection(&core, 0, 0, &tokens, &patches) == HEATVIT_ERROR_NO_ANSWER);
    sees(heatvit_kept(&core, 0, 0, &kept), HEATVIT_ERROR_NO_ANSWER);
}

static void command_at(const char *format, uint64_t address)
{
    char text[64];
    snprintf(text, sizeof text, format, (unsigned long long)address);
    heatvit_sim_command(&sim, text);
}

/* A register that reads as something else. */
static uint32_t other_offset, other_value;

static uint32_t (*right_read)(void *context, uint32_t offset);

static uint32_t other_read(void *context, uint32_t offset)
{
    return offset == other_offset ? other_value : right_read(context, offset);
}

static void identity(void)
{
    right_read = port.read;
    port.read = other_read;
    other_offset = HEATVIT_REG_VERSION;
    other_value = 0;
    sees(heatvit_open(&core, &port), HEATVIT_ERROR_NO_CORE);
    other_value = 0xffffffffu;
    sees(heatvit_open(&core, &port), HEATVIT_ERROR_NO_CORE);
    other_value = HEATVIT_ISA_VERSION + 1;
    sees(heatvit_open(&core, &port), HEATVIT_ERROR_VERSION);
    other_offset = HEATVIT_REG_CONFIG;
    other_value = right_read(port.context, HEATVIT_REG_CONFIG) ^ 24u << HEATVIT_CONFIG_ROWS_SHIFT;
    CHECK(heatvit_open(&core, &port) == 0);
    sees(heatvit_load(&core, file, bytes, &sim.memory, 0), HEATVIT_ERROR_MODEL_CONFIG);
    other_offset = HEATVIT_REG_LIMITS0;
    other_value = 3u << HEATVIT_LIMITS0_MAX_TOKENS_SHIFT;
    CHECK(heatvit_open(&core, &port) == 0);
    sees(heatvit_load(&core, file, bytes, &sim.memory, 0), HEATVIT_ERROR_MODEL_LIMIT);
    sees(heatvit_self_test(&core, SECOND), HEATVIT_ERROR_NO_MODEL);
    port.read = right_read;
    start(1);
    works();
}

static void files(void)
{
    uint8_t *other = malloc(bytes + 1);
    CHECK(heatvit_open(&core, &port) == 0);
    memcpy(other, file, bytes);
    other[0] ^= 1;
    sees(heatvit_load(&core, other, bytes, &sim.memory, 0), HEATVIT_ERROR_NOT_A_MODEL);
    sees(heatvit_load(&core, file, 3, &sim.memory, 0), HEATVIT_ERROR_NOT_A_MODEL);
    other[0] ^= 1;
    other[4 * HEATVIT_MODEL_FORMAT]++;
    sees(heatvit_load(&core, other, bytes, &sim.memory, 0), HEATVIT_ERROR_FORMAT);
    other[4 * HEATVIT_MODEL_FORMAT]--;
    sees(heatvit_load(&core, file, 100, &sim.memory, 0), HEATVIT_ERROR_TRUNCATED);
    sees(heatvit_load(&core, file, bytes - 1, &sim.memory, 0), HEATVIT_ERROR_TRUNCATED);
    other[bytes] = 0;
    sees(heatvit_load(&core, other, bytes + 1, &sim.memory, 0), HEATVIT_ERROR_TRUNCATED);
    other[4 * HEATVIT_MODEL_TOKENS] ^= 2;
    sees(heatvit_load(&core, other, bytes, &sim.memory, 0), HEATVIT_ERROR_CORRUPT);
    other[4 * HEATVIT_MODEL_TOKENS] ^= 2;
    other[bytes - 1] ^= 0x80;
    sees(heatvit_load(&core, other, bytes, &sim.memory, 0), HEATVIT_ERROR_CORRUPT);
    free(other);
    sees(heatvit_start(&core, 1), HEATVIT_ERROR_NO_MODEL);
    start(1);
    works();
}

static void arguments(void)
{
    struct heatvit_memory memory = sim.memory;
    struct heatvit_result result;
    uint32_t tokens, patches;
    CHECK(heatvit_open(&core, &port) == 0);
    CHECK(heatvit_frame(&core, 0) == NULL && heatvit_field(&core, HEATVIT_MODEL_TOKENS) == 0);
    memory.bytes = heatvit_memory_bytes(file, 2) - 1;
    sees(heatvit_load(&core, file, bytes, &memory, 2), HEATVIT_ERROR_MEMORY);
    memory.bytes++;
    memory.address += 64;
    sees(heatvit_load(&core, file, bytes, &memory, 2), HEATVIT_ERROR_ALIGNMENT);
    memory.address -= 64;
    CHECK(heatvit_load(&core, file, bytes, &memory, 2) == 0);
    CHECK(heatvit_frame(&core, 1) && !heatvit_frame(&core, 2));
    sees(heatvit_start(&core, 0), HEATVIT_ERROR_IMAGES);
    sees(heatvit_start(&core, 3), HEATVIT_ERROR_IMAGES);
    sees(heatvit_wait(&core, SECOND), HEATVIT_ERROR_NOT_RUNNING);
    no_answer();
    works();
    CHECK(heatvit_result(&core, 0, &result) == 0);
    sees(heatvit_result(&core, 1, &result), HEATVIT_ERROR_ARGUMENT);
    sees(heatvit_selection(&core, 0, 0, &tokens, &patches), HEATVIT_ERROR_ARGUMENT);
    CHECK(heatvit_start(&core, 1) == 0);
    sees(heatvit_start(&core, 1), HEATVIT_ERROR_BUSY);
    sees(heatvit_load(&core, file, bytes, &memory, 2), HEATVIT_ERROR_BUSY);
    sees(heatvit_result(&core, 0, &result), HEATVIT_ERROR_BUSY);
    sees(heatvit_self_test(&core, SECOND), HEATVIT_ERROR_BUSY);
    CHECK(heatvit_wait(&core, SECOND) == 0);
    works();
}

/* Memory that takes its time: the run is late, but it ends, or it is reset, and all is well. */
static void slow(void)
{
    start(1);
    heatvit_sim_command(&sim, "latency 3000");
    CHECK(heatvit_start(&core, 1) == 0);
    sees(heatvit_wait(&core, 20), HEATVIT_ERROR_TIMEOUT);
    CHECK(heatvit_wait(&core, SECOND) == 0);
    CHECK(heatvit_start(&core, 1) == 0);
    sees(heatvit_wait(&core, 20), HEATVIT_ERROR_TIMEOUT);
    CHECK(heatvit_reset(&core, SECOND) == 0);
    no_answer();
    heatvit_sim_command(&sim, "latency 20");
    heatvit_sim_command(&sim, "quiet");
    works();
    /* Whoever opens the core next does not have to know of the run. */
    CHECK(heatvit_start(&core, 1) == 0);
    start(1);
    works();
}

/* Memory that does not answer, by the time of the driver: it can be reset only when memory does. */
static void silent(void)
{
    start(1);
    command_at("error %llu silent", sim.memory.address + core.frames);
    CHECK(heatvit_start(&core, 1) == 0);
    sees(heatvit_wait(&core, 20), HEATVIT_ERROR_TIMEOUT);
    sees(heatvit_reset(&core, 100), HEATVIT_ERROR_RESET);
    sees(heatvit_start(&core, 1), HEATVIT_ERROR_BUSY);
    command_at("error %llu okay", sim.memory.address + core.frames);
    CHECK(heatvit_reset(&core, SECOND) == 0);
    works();
    /* Or with the whole bus. */
    heatvit_sim_command(&sim, "latency 1000000000000");
    CHECK(heatvit_start(&core, 1) == 0);
    sees(heatvit_wait(&core, 20), HEATVIT_ERROR_TIMEOUT);
    heatvit_sim_command(&sim, "latency 20");
    heatvit_sim_command(&sim, "reset 8");
    start(1);
    works();
}

/* The same, by the watchdog of the core: it says what it has waited for. */
static void watchdog(void)
{
    uint64_t frames;
    start(1);
    frames = sim.memory.address + core.frames;
    CHECK(heatvit_watchdog(&core, 3000) == 0);
    works();
    command_at("error %llu silent", frames);
    sees(heatvit_run(&core, 1, SECOND), HEATVIT_ERROR_HANG_LOAD);
    no_answer();
    sees(heatvit_watchdog(&core, 3000), HEATVIT_ERROR_BUSY);
    sees(heatvit_start(&core, 1), HEATVIT_ERROR_BUSY);
    command_at("error %llu okay", frames);
    CHECK(heatvit_reset(&core, SECOND) == 0);
    works();
}

static void bus_errors(void)
{
    const uint64_t model = sim.memory.address;
    start(1);
    works();
    command_at("error %llu slverr", model + 64);
    sees(heatvit_run(&core, 1, SECOND), HEATVIT_ERROR_BUS_READ);
    no_answer();
    command_at("error %llu okay", model + 64);
    works();
    command_at("error %llu decerr", model + core.outputs);
    sees(heatvit_run(&core, 1, SECOND), HEATVIT_ERROR_BUS_WRITE);
    no_answer();
    CHECK(heatvit_reset(&core, SECOND) == 0);
    command_at("error %llu okay", model + core.outputs);
    works();
}

/* A model that is damaged in memory: the core says so; loading it again is enough. */
static void damaged(void)
{
    start(1);
    sim.memory.data[64 + 20] ^= 0x10;
    port.flush(&sim, sim.memory.data, 128);
    sees(heatvit_run(&core, 1, SECOND), HEATVIT_ERROR_BAD_CHECKSUM);
    sim.memory.data[0] ^= 0xff;
    port.flush(&sim, sim.memory.data, 64);
    sees(heatvit_run(&core, 1, SECOND), HEATVIT_ERROR_BAD_MAGIC);
    start(1);
    works();
}

static int no_interrupt(void *context, uint64_t microseconds)
{
    (void)microseconds;
    heatvit_sim_command(context, "wait 100000");
    return 0;
}

static int any_interrupt(void *context, uint64_t microseconds)
{
    (void)microseconds;
    heatvit_sim_command(context, "wait 1000");
    return 1;
}

static void interrupts(void)
{
    struct heatvit_result result;
    port.interrupt = no_interrupt;
    start(1);
    sees(heatvit_run(&core, 1, SECOND), HEATVIT_ERROR_INTERRUPT);
    CHECK(heatvit_result(&core, 0, &result) == 0);
    /* One that somebody else raises does not end a run. */
    port.interrupt = any_interrupt;
    start(1);
    works();
}

/* The answer that is expected is another one. */
static void self_test(void)
{
    const uint32_t sample = 4 * HEATVIT_MODEL_SAMPLE_OFFSET;
    const size_t pixels = file[sample] | (size_t)file[sample + 1] << 8 |
                          (size_t)file[sample + 2] << 16;
    start(1);
    works();
    file[pixels] ^= 0xff;
    file[pixels + 1000] ^= 0xff;
    sees(heatvit_self_test(&core, SECOND), HEATVIT_ERROR_SELF_TEST);
    file[pixels] ^= 0xff;
    file[pixels + 1000] ^= 0xff;
    works();
}

/* Without its flush the core must not see the model: or the simulation would hide that. */
static void cache(void)
{
    void (*flush)(void *context, const void *start, size_t bytes) = port.flush;
    port.flush = NULL;
    start(1);
    sees(heatvit_run(&core, 1, SECOND), HEATVIT_ERROR_BAD_MAGIC);
    port.flush = flush;
    port.invalidate = NULL;
    start(1);
    sees(heatvit_self_test(&core, SECOND), HEATVIT_ERROR_SELF_TEST);
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {{"identity", identity}, {"files", files},           {"arguments", arguments},
             {"slow", slow},         {"silent", silent},         {"bus_errors", bus_errors},
             {"damaged", damaged},   {"interrupts", interrupts}, {"self_test", self_test},
             {"cache", cache},       {"watchdog", watchdog}};

int main(int count, char **words)
{
    struct heatvit_result result;
    size_t i;
    if (count != 4 && count != 5)
        return 2;
    file = heatvit_linux_read(words[2], &bytes);
    CHECK(file);
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (!strcmp(words[3], cases[i].name))
            break;
    CHECK(i < sizeof cases / sizeof cases[0]);
    heatvit_sim_open(&sim, words[1], heatvit_memory_bytes(file, 2), &port, count == 5);
    heatvit_sim_command(&sim, "latency 20");
    cases[i].run();
    CHECK(heatvit_close(&core) == 0);
    CHECK(heatvit_result(&core, 0, &result) == HEATVIT_ERROR_NO_ANSWER);
    heatvit_sim_close(&sim);
    free(file);
    return 0;
}
