/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Driver of the HeatViT accelerator: C99, without an operating system, without malloc.
 *
 * A port says how registers are reached, how caches are handled and what time it is, see
 * heatvit_linux.h and heatvit_baremetal.h. Hosts are little endian, as the core is.
 *
 *     struct heatvit core;
 *     if (heatvit_open(&core, &port) || heatvit_load(&core, file, bytes, &memory, 1) ||
 *         heatvit_self_test(&core, 1000000))
 *         puts(heatvit_message(&core, text, sizeof text));
 *     memcpy(heatvit_frame(&core, 0), pixels, heatvit_field(&core, HEATVIT_MODEL_FRAME_BYTES));
 *     heatvit_run(&core, 1, 1000000);
 *     heatvit_result(&core, 0, &result);
 *
 * Functions that return int return 0, or the code of an error: those below 256 are enum
 * heatvit_error, found by the core, the others enum heatvit_driver_error. heatvit_message makes a
 * sentence of the last one. One thread at a time.
 */

#ifndef HEATVIT_H
#define HEATVIT_H

#include <stddef.h>
#include <stdint.h>

#include "heatvit_interface.h"
#include "heatvit_regs.h"

/* Characters that heatvit_message writes at most, the final zero included. */
#define HEATVIT_MESSAGE_BYTES 256u

/* Words of a model file that say which core it is for, and registers of the same contents. */
#define HEATVIT_IDENTITY_WORDS (HEATVIT_MODEL_LIMITS3 - HEATVIT_MODEL_VERSION + 1)

/* What differs from one system to another. Every function is given the context. */
struct heatvit_port {
    void *context;
    /* Reads and writes a register at a byte address. */
    uint32_t (*read)(void *context, uint32_t offset);
    void (*write)(void *context, uint32_t offset, uint32_t value);
    /* Time in microseconds from any start. */
    uint64_t (*now)(void *context);
    /* Waits for the interrupt: not 0 if it came. Null to poll the registers. */
    int (*interrupt)(void *context, uint64_t microseconds);
    /* Called between two polls; null to poll without a break. */
    void (*pause)(void *context);
    /* Write the caches back to memory, and forget what they hold of it. Null where caches are
     * coherent or off. */
    void (*flush)(void *context, const void *start, size_t bytes);
    void (*invalidate)(void *context, const void *start, size_t bytes);
};

/* Memory that the core reads and writes: contiguous, at a multiple of 4096. */
struct heatvit_memory {
    uint8_t *data;    /* where the processor sees it */
    uint64_t address; /* where the core sees it */
    size_t bytes;
};

/* The answer for one image. */
struct heatvit_result {
    const int32_t *logits;
    uint32_t classes;
    uint32_t top_class;
    int32_t top_logit;
    uint32_t tokens; /* that were left */
    uint32_t cycle;  /* from the start of the run to the last logit */
};

/* Counters of the last run. */
struct heatvit_counters {
    uint64_t cycles;
    uint32_t stalls[HEATVIT_STALLS]; /* of the cycles, by enum heatvit_stall */
    uint32_t bytes_read, bytes_written;
    uint32_t images_done;
};

/* A core. Its members are those of the functions below. */
struct heatvit {
    struct heatvit_port port;
    uint32_t identity[HEATVIT_IDENTITY_WORDS]; /* VERSION, CONFIG, LIMITS0, ... */

    const uint8_t *file; /* model file, null if no model is loaded */
    struct heatvit_memory memory;
    uint32_t images; /* that there is memory for */
    size_t frames, outputs;
    uint32_t frame_stride, output_stride;
    uint32_t run_images; /* of the last run; 0 if it has no answers */
    int running;

    int error; /* the last one, and its numbers */
    const char *what, *relation;
    uint32_t found, wanted;
};

/* Opens a core: sees that it is there and of the version of this driver, and reads its sizes. A run
 * of somebody else that is under way is reset. */
int heatvit_open(struct heatvit *core, const struct heatvit_port *port);

/* Sizes of the core. */
enum heatvit_size {
    HEATVIT_ROWS,
    HEATVIT_COLUMNS,
    HEATVIT_PORTS,
    HEATVIT_PORT_BYTES,
    HEATVIT_MAX_TOKENS,
    HEATVIT_MAX_WIDTH,
    HEATVIT_MAX_HIDDEN,
    HEATVIT_MAX_PATCH,
    HEATVIT_MAX_CLASSES,
    HEATVIT_MAX_IMAGES,
    HEATVIT_MAX_ROWS,
    HEATVIT_SIZES
};
uint32_t heatvit_size(const struct heatvit *core, enum heatvit_size size);

/* Sees that a model file is whole and that the core can run it. */
int heatvit_check(struct heatvit *core, const void *file, size_t bytes);

/* Bytes of memory that the model in a checked file and its frames and outputs take. */
size_t heatvit_memory_bytes(const void *file, uint32_t images);

/* Checks a model file and copies the model to memory, with room for frames and outputs of as many
 * images, those of one round if it is 0. The file must stay: the self-test reads it. */
int heatvit_load(struct heatvit *core, const void *file, size_t bytes,
                 const struct heatvit_memory *memory, uint32_t images);

/* A word of the header of the model, and its name. */
uint32_t heatvit_field(const struct heatvit *core, enum heatvit_model_field field);
const char *heatvit_name(const struct heatvit *core);

/* Where pixels of an image belong: lines of RGB without gaps. Null if there is no such image. */
uint8_t *heatvit_frame(const struct heatvit *core, uint32_t image);

/* Runs the first images, one or several: a multiple of the images in a round. heatvit_run is
 * heatvit_start and heatvit_wait. After TIMEOUT the run goes on. */
int heatvit_start(struct heatvit *core, uint32_t images);
int heatvit_wait(struct heatvit *core, uint64_t microseconds);
int heatvit_run(struct heatvit *core, uint32_t images, uint64_t microseconds);

/* The answer for an image of the last run; it lasts until the next run. Here and below, NO_ANSWER
 * if no run has ended since the model was loaded or the core was reset, or if the last one ended
 * with an error of the core. */
int heatvit_result(struct heatvit *core, uint32_t image, struct heatvit_result *result);

/* What a selector left of an image of the last round: tokens of all kinds, and patches. */
int heatvit_selection(struct heatvit *core, uint32_t image, uint32_t selector, uint32_t *tokens,
                      uint32_t *patches);

/* Which patches of an image of the last round a selector and those before it kept: kept[i] is 1
 * if patch i, counted line by line, stayed, else 0. Of as many patches as the model has. */
int heatvit_kept(struct heatvit *core, uint32_t image, uint32_t selector, uint8_t *kept);

/* Counters of the last run; valid after errors, too. */
void heatvit_read_counters(const struct heatvit *core, struct heatvit_counters *counters);

/* Runs the sample of the model file in all images of a round and compares the answers. */
int heatvit_self_test(struct heatvit *core, uint64_t microseconds);

/* Ends a run, if there is one, and leaves the core idle. The model stays loaded. */
int heatvit_reset(struct heatvit *core, uint64_t microseconds);

/* Sets the cycles without progress after which the core ends a run with an error, before a run;
 * 2**20 after a reset of the hardware. */
int heatvit_watchdog(struct heatvit *core, uint32_t cycles);

/* Leaves the core idle and silent: no run, no interrupt. */
int heatvit_close(struct heatvit *core);

/* The sentence of a code, and the sentence of the last error with its numbers, in text. */
const char *heatvit_error_sentence(int code);
const char *heatvit_message(const struct heatvit *core, char *text, size_t bytes);

#endif
