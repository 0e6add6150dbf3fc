/* SPDX-License-Identifier: BSD-2-Clause */
/* The driver, see heatvit.h. */

#include "heatvit.h"

#include <string.h>

/* Time that opening and closing give a run of somebody else to end. */
#define RESET_MICROSECONDS 1000000u

static const char *const MUST_BE = "must be";
static const char *const AT_MOST = "must be at most";
static const char *const AT_LEAST = "must be at least";

/* Errors */

static int fail_with(struct heatvit *core, int code, const char *what, uint32_t found,
                     const char *relation, uint32_t wanted)
{
    core->error = code;
    core->what = what;
    core->found = found;
    core->relation = relation;
    core->wanted = wanted;
    return code;
}

static int fail(struct heatvit *core, int code)
{
    return fail_with(core, code, NULL, 0, NULL, 0);
}

const char *heatvit_error_sentence(int code)
{
    return code < 256 ? heatvit_error_text((unsigned int)code) : heatvit_driver_error_text(code);
}

static size_t append(char *text, size_t bytes, size_t at, const char *part)
{
    while (*part && at + 1 < bytes)
        text[at++] = *part++;
    text[at] = 0;
    return at;
}

static size_t append_number(char *text, size_t bytes, size_t at, uint32_t value)
{
    char digits[11];
    size_t first = sizeof digits - 1;
    digits[first] = 0;
    do {
        digits[--first] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    return append(text, bytes, at, &digits[first]);
}

const char *heatvit_message(const struct heatvit *core, char *text, size_t bytes)
{
    size_t at;
    if (bytes == 0)
        return "";
    at = append(text, bytes, 0, heatvit_error_sentence(core->error));
    if (core->what) {
        at = append(text, bytes, at, " (");
        at = append(text, bytes, at, core->what);
        at = append(text, bytes, at, " ");
        at = append_number(text, bytes, at, core->found);
        if (core->relation) {
            at = append(text, bytes, at, ", ");
            at = append(text, bytes, at, core->relation);
            at = append(text, bytes, at, " ");
            at = append_number(text, bytes, at, core->wanted);
        }
        append(text, bytes, at, ")");
    }
    return text;
}

/* Registers */

static uint32_t get(const struct heatvit *core, uint32_t offset)
{
    return core->port.read(core->port.context, offset);
}

static void put(const struct heatvit *core, uint32_t offset, uint32_t value)
{
    core->port.write(core->port.context, offset, value);
}

static void put_address(const struct heatvit *core, uint32_t low, uint32_t high, uint64_t address)
{
    put(core, low, (uint32_t)address);
    put(core, high, (uint32_t)(address >> 32));
}

static uint64_t now(const struct heatvit *core)
{
    return core->port.now(core->port.context);
}

static void flush(const struct heatvit *core, size_t offset, size_t bytes)
{
    if (core->port.flush)
        core->port.flush(core->port.context, core->memory.data + offset, bytes);
}

static void invalidate(const struct heatvit *core, size_t offset, size_t bytes)
{
    if (core->port.invalidate)
        core->port.invalidate(core->port.context, core->memory.data + offset, bytes);
}

/* Writing a one toggles a bit of ISR: only those that are set are written. */
static void acknowledge(const struct heatvit *core)
{
    put(core, HEATVIT_REG_ISR, get(core, HEATVIT_REG_ISR));
}

/* Identity */

static const uint32_t identity_registers[HEATVIT_IDENTITY_WORDS] = {
    HEATVIT_REG_VERSION, HEATVIT_REG_CONFIG, HEATVIT_REG_LIMITS0, HEATVIT_REG_LIMITS1,
    HEATVIT_REG_LIMITS2, HEATVIT_REG_LIMITS3};

/* Where each enum heatvit_size is, in the words of a model file as in the registers. */
static const struct {
    enum heatvit_model_field word;
    uint32_t mask;
    unsigned int shift;
    const char *name;
} sizes[HEATVIT_SIZES] = {
#define SIZE(register, field, name) \
    {HEATVIT_MODEL_##register, HEATVIT_##register##_##field##_MASK, \
     HEATVIT_##register##_##field##_SHIFT, name}
    SIZE(CONFIG, ROWS, "rows"),
    SIZE(CONFIG, COLUMNS, "columns"),
    SIZE(CONFIG, PORTS, "ports"),
    SIZE(CONFIG, PORT_BYTES, "port_bytes"),
    SIZE(LIMITS0, MAX_TOKENS, "max_tokens"),
    SIZE(LIMITS0, MAX_WIDTH, "max_width"),
    SIZE(LIMITS1, MAX_HIDDEN, "max_hidden"),
    SIZE(LIMITS1, MAX_PATCH, "max_patch"),
    SIZE(LIMITS2, MAX_CLASSES, "max_classes"),
    SIZE(LIMITS3, IMAGES, "images"),
    SIZE(LIMITS3, MAX_ROWS, "max_rows"),
};

static uint32_t size_in(uint32_t value, enum heatvit_size size)
{
    return (value & sizes[size].mask) >> sizes[size].shift;
}

uint32_t heatvit_size(const struct heatvit *core, enum heatvit_size size)
{
    return size_in(core->identity[sizes[size].word - HEATVIT_MODEL_VERSION], size);
}

int heatvit_open(struct heatvit *core, const struct heatvit_port *port)
{
    unsigned int i;
    memset(core, 0, sizeof *core);
    core->port = *port;
    for (i = 0; i < HEATVIT_IDENTITY_WORDS; i++)
        core->identity[i] = get(core, identity_registers[i]);
    /* A bus without an answer reads as zeros or ones. */
    if (core->identity[0] == 0 || core->identity[0] == 0xffffffffu)
        return fail(core, HEATVIT_ERROR_NO_CORE);
    if (core->identity[0] != HEATVIT_ISA_VERSION)
        return fail_with(core, HEATVIT_ERROR_VERSION, "version", core->identity[0], MUST_BE,
                         HEATVIT_ISA_VERSION);
    put(core, HEATVIT_REG_GIE, 0);
    if (!(get(core, HEATVIT_REG_CTRL) & HEATVIT_CTRL_AP_IDLE_MASK))
        return heatvit_reset(core, RESET_MICROSECONDS);
    return 0;
}

/* Model files */

static uint32_t word(const uint8_t *file, unsigned int index)
{
    const uint8_t *at = file + 4u * index;
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* CRC-32 as in zlib, four bits at a time. */
static uint32_t crc32(const uint8_t *data, size_t bytes)
{
    static const uint32_t table[16] = {
        0x00000000u, 0x1db71064u, 0x3b6e20c8u, 0x26d930acu, 0x76dc4190u, 0x6b6b51f4u,
        0x4db26158u, 0x5005713cu, 0xedb88320u, 0xf00f9344u, 0xd6d6a3e8u, 0xcb61b38cu,
        0x9b64c2b0u, 0x86d3d2d4u, 0xa00ae278u, 0xbdbdf21cu};
    uint32_t crc = 0xffffffffu;
    while (bytes--) {
        crc ^= *data++;
        crc = crc >> 4 ^ table[crc & 15u];
        crc = crc >> 4 ^ table[crc & 15u];
    }
    return ~crc;
}

static int check_file(struct heatvit *core, const uint8_t *file, size_t bytes)
{
    const size_t behind_crc = 4u * (HEATVIT_MODEL_HEADER_CRC + 1u);
    if (bytes < 8 || word(file, HEATVIT_MODEL_MAGIC) != HEATVIT_FILE_MAGIC)
        return fail(core, HEATVIT_ERROR_NOT_A_MODEL);
    if (word(file, HEATVIT_MODEL_FORMAT) != HEATVIT_FILE_FORMAT)
        return fail_with(core, HEATVIT_ERROR_FORMAT, "format", word(file, HEATVIT_MODEL_FORMAT),
                         MUST_BE, HEATVIT_FILE_FORMAT);
    if (bytes < HEATVIT_FILE_HEADER_BYTES)
        return fail_with(core, HEATVIT_ERROR_TRUNCATED, "bytes", (uint32_t)bytes, AT_LEAST,
                         HEATVIT_FILE_HEADER_BYTES);
    if (word(file, HEATVIT_MODEL_HEADER_CRC) !=
        crc32(file + behind_crc, HEATVIT_FILE_HEADER_BYTES - behind_crc))
        return fail(core, HEATVIT_ERROR_CORRUPT);
    /* From here on the header is what was written. */
    if (bytes != word(file, HEATVIT_MODEL_FILE_BYTES))
        return fail_with(core, HEATVIT_ERROR_TRUNCATED, "bytes", (uint32_t)bytes, MUST_BE,
                         word(file, HEATVIT_MODEL_FILE_BYTES));
    if (word(file, HEATVIT_MODEL_BODY_CRC) !=
        crc32(file + HEATVIT_FILE_HEADER_BYTES, bytes - HEATVIT_FILE_HEADER_BYTES))
        return fail(core, HEATVIT_ERROR_CORRUPT);
    return 0;
}

int heatvit_check(struct heatvit *core, const void *data, size_t bytes)
{
    static const struct {
        enum heatvit_model_field word;
        enum heatvit_size limit;
        const char *name;
    } limits[] = {{HEATVIT_MODEL_TOKENS, HEATVIT_MAX_TOKENS, "tokens"},
                  {HEATVIT_MODEL_WIDTH, HEATVIT_MAX_WIDTH, "width"},
                  {HEATVIT_MODEL_HIDDEN, HEATVIT_MAX_HIDDEN, "hidden"},
                  {HEATVIT_MODEL_PATCH, HEATVIT_MAX_PATCH, "patch bytes"},
                  {HEATVIT_MODEL_CLASSES, HEATVIT_MAX_CLASSES, "classes"}};
    const uint8_t *file = data;
    int error = check_file(core, file, bytes);
    unsigned int i;
    if (error)
        return error;
    if (word(file, HEATVIT_MODEL_VERSION) != core->identity[0])
        return fail_with(core, HEATVIT_ERROR_MODEL_VERSION, "version",
                         word(file, HEATVIT_MODEL_VERSION), MUST_BE, core->identity[0]);
    for (i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        const uint32_t limit = heatvit_size(core, limits[i].limit);
        if (word(file, limits[i].word) > limit)
            return fail_with(core, HEATVIT_ERROR_MODEL_LIMIT, limits[i].name,
                             word(file, limits[i].word), AT_MOST, limit);
    }
    for (i = 0; i < HEATVIT_SIZES; i++) {
        const enum heatvit_size size = (enum heatvit_size)i;
        const uint32_t made_for = size_in(word(file, sizes[i].word), size);
        if (made_for != heatvit_size(core, size))
            return fail_with(core, HEATVIT_ERROR_MODEL_CONFIG, sizes[i].name, made_for, MUST_BE,
                             heatvit_size(core, size));
    }
    return 0;
}

static size_t round_up(size_t value, size_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

/* Bytes from one frame, and from one output, to the next. */
static size_t frame_stride(const uint8_t *file)
{
    return round_up(word(file, HEATVIT_MODEL_FRAME_BYTES), HEATVIT_FRAME_ALIGN);
}

static size_t output_stride(const uint8_t *file)
{
    return round_up(word(file, HEATVIT_MODEL_OUTPUT_BYTES), HEATVIT_PAGE_BYTES);
}

/* Offsets in memory: the model, then frames, then outputs; returns their end. */
static size_t layout(const uint8_t *file, uint32_t images, size_t *frames, size_t *outputs)
{
    *frames = round_up(word(file, HEATVIT_MODEL_MODEL_BYTES), HEATVIT_PAGE_BYTES);
    *outputs = round_up(*frames + images * frame_stride(file), HEATVIT_PAGE_BYTES);
    return *outputs + images * output_stride(file);
}

size_t heatvit_memory_bytes(const void *file, uint32_t images)
{
    size_t frames, outputs;
    return layout(file, images, &frames, &outputs);
}

int heatvit_load(struct heatvit *core, const void *data, size_t bytes,
                 const struct heatvit_memory *memory, uint32_t images)
{
    const uint8_t *file = data;
    size_t frames, outputs, end;
    int error;
    if (core->running)
        return fail(core, HEATVIT_ERROR_BUSY);
    error = heatvit_check(core, file, bytes);
    if (error)
        return error;
    if (images == 0)
        images = word(file, HEATVIT_MODEL_IMAGES);
    if (images % word(file, HEATVIT_MODEL_IMAGES))
        return fail_with(core, HEATVIT_ERROR_IMAGES, "images", images, "must be a multiple of",
                         word(file, HEATVIT_MODEL_IMAGES));
    if (memory->address % HEATVIT_PAGE_BYTES)
        return fail(core, HEATVIT_ERROR_ALIGNMENT);
    end = layout(file, images, &frames, &outputs);
    if (memory->bytes < end)
        return fail_with(core, HEATVIT_ERROR_MEMORY, "bytes", (uint32_t)memory->bytes, AT_LEAST,
                         (uint32_t)end);
    core->file = file;
    core->memory = *memory;
    core->images = images;
    core->run_images = 0;
    core->frames = frames;
    core->outputs = outputs;
    core->frame_stride = (uint32_t)frame_stride(file);
    core->output_stride = (uint32_t)output_stride(file);
    memcpy(memory->data, file + word(file, HEATVIT_MODEL_MODEL_OFFSET),
           word(file, HEATVIT_MODEL_MODEL_BYTES));
    /* No line that somebody wrote before may fall on an output later. */
    flush(core, 0, end);
    return 0;
}

uint32_t heatvit_field(const struct heatvit *core, enum heatvit_model_field field)
{
    return core->file ? word(core->file, field) : 0;
}

const char *heatvit_name(const struct heatvit *core)
{
    return core->file ? (const char *)core->file + 4u * HEATVIT_MODEL_FIELDS : "";
}

uint8_t *heatvit_frame(const struct heatvit *core, uint32_t image)
{
    if (!core->file || image >= core->images)
        return NULL;
    return core->memory.data + core->frames + (size_t)image * core->frame_stride;
}

/* Runs */

int heatvit_start(struct heatvit *core, uint32_t images)
{
    const uint32_t in_round = heatvit_field(core, HEATVIT_MODEL_IMAGES);
    uint64_t address = core->memory.address;
    uint32_t frames, outputs;
    if (!core->file)
        return fail(core, HEATVIT_ERROR_NO_MODEL);
    if (core->running || !(get(core, HEATVIT_REG_CTRL) & HEATVIT_CTRL_AP_IDLE_MASK))
        return fail(core, HEATVIT_ERROR_BUSY);
    if (images == 0 || images % in_round)
        return fail_with(core, HEATVIT_ERROR_IMAGES, "images", images, "must be a multiple of",
                         in_round);
    if (images > core->images)
        return fail_with(core, HEATVIT_ERROR_IMAGES, "images", images, AT_MOST, core->images);
    frames = (images - 1) * core->frame_stride + heatvit_field(core, HEATVIT_MODEL_FRAME_BYTES);
    outputs = (images - 1) * core->output_stride + heatvit_field(core, HEATVIT_MODEL_OUTPUT_BYTES);
    flush(core, core->frames, frames);
    put_address(core, HEATVIT_REG_MODEL_ADDR, HEATVIT_REG_MODEL_ADDR_HIGH, address);
    put_address(core, HEATVIT_REG_FRAME_ADDR, HEATVIT_REG_FRAME_ADDR_HIGH, address + core->frames);
    put_address(core, HEATVIT_REG_OUTPUT_ADDR, HEATVIT_REG_OUTPUT_ADDR_HIGH,
                address + core->outputs);
    put(core, HEATVIT_REG_MODEL_BYTES, heatvit_field(core, HEATVIT_MODEL_MODEL_BYTES));
    put(core, HEATVIT_REG_FRAME_BYTES, frames);
    put(core, HEATVIT_REG_OUTPUT_BYTES, outputs);
    put(core, HEATVIT_REG_ROUNDS, images / in_round);
    put(core, HEATVIT_REG_FRAME_STRIDE, core->frame_stride);
    put(core, HEATVIT_REG_OUTPUT_STRIDE, core->output_stride);
    /* What is left of an earlier run must not end this one. */
    acknowledge(core);
    put(core, HEATVIT_REG_IER, core->port.interrupt ? HEATVIT_IER_DONE_MASK : 0);
    put(core, HEATVIT_REG_GIE, core->port.interrupt ? HEATVIT_GIE_ENABLE_MASK : 0);
    core->running = 1;
    core->run_images = images;
    put(core, HEATVIT_REG_CTRL, HEATVIT_CTRL_AP_START_MASK);
    return 0;
}

/* Waits until the run has ended: not 0 if it has. */
static int ended(struct heatvit *core, uint64_t microseconds, int *interrupted)
{
    const uint64_t start = now(core);
    *interrupted = !core->port.interrupt;
    for (;;) {
        const uint64_t passed = now(core) - start;
        const int late = passed >= microseconds;
        if (core->port.interrupt && !late) {
            if (core->port.interrupt(core->port.context, microseconds - passed)) {
                acknowledge(core);
                *interrupted = 1;
            }
        }
        /* The time was read before: a run that ended in time is never late. */
        if (get(core, HEATVIT_REG_CTRL) & HEATVIT_CTRL_AP_DONE_MASK)
            return 1;
        if (late)
            return 0;
        if (!core->port.interrupt && core->port.pause)
            core->port.pause(core->port.context);
    }
}

int heatvit_wait(struct heatvit *core, uint64_t microseconds)
{
    int interrupted;
    uint32_t error;
    if (!core->running)
        return fail(core, HEATVIT_ERROR_NOT_RUNNING);
    if (!ended(core, microseconds, &interrupted))
        return fail_with(core, HEATVIT_ERROR_TIMEOUT, "images done",
                         get(core, HEATVIT_REG_IMAGES_DONE), MUST_BE, core->run_images);
    core->running = 0;
    invalidate(core, core->outputs, (size_t)core->run_images * core->output_stride);
    error = get(core, HEATVIT_REG_ERROR);
    if (error) {
        /* What is in memory and in the registers is of earlier runs, or a part. */
        core->run_images = 0;
        return fail_with(core, (int)error, "instruction", get(core, HEATVIT_REG_ERROR_INDEX), NULL,
                         0);
    }
    if (!interrupted)
        return fail(core, HEATVIT_ERROR_INTERRUPT);
    return 0;
}

int heatvit_run(struct heatvit *core, uint32_t images, uint64_t microseconds)
{
    const int error = heatvit_start(core, images);
    return error ? error : heatvit_wait(core, microseconds);
}

int heatvit_reset(struct heatvit *core, uint64_t microseconds)
{
    const uint64_t start = now(core);
    int late = 0;
    put(core, HEATVIT_REG_GIE, 0);
    put(core, HEATVIT_REG_SOFT_RESET, HEATVIT_SOFT_RESET_RESET_MASK);
    while (get(core, HEATVIT_REG_SOFT_RESET) & HEATVIT_SOFT_RESET_RESET_MASK) {
        if (late)
            return fail(core, HEATVIT_ERROR_RESET);
        late = now(core) - start >= microseconds;
        if (core->port.pause)
            core->port.pause(core->port.context);
    }
    core->running = 0;
    core->run_images = 0;
    get(core, HEATVIT_REG_CTRL);
    acknowledge(core);
    return 0;
}

int heatvit_watchdog(struct heatvit *core, uint32_t cycles)
{
    if (core->running || !(get(core, HEATVIT_REG_CTRL) & HEATVIT_CTRL_AP_IDLE_MASK))
        return fail(core, HEATVIT_ERROR_BUSY);
    put(core, HEATVIT_REG_TIMEOUT, cycles);
    return 0;
}

int heatvit_close(struct heatvit *core)
{
    int error = 0;
    put(core, HEATVIT_REG_GIE, 0);
    if (core->running)
        error = heatvit_reset(core, RESET_MICROSECONDS);
    core->file = NULL;
    core->run_images = 0;
    return error;
}

/* Answers */

/* Sees that the last run has ended without an error. */
static int answered(struct heatvit *core)
{
    if (core->running)
        return fail(core, HEATVIT_ERROR_BUSY);
    if (!core->run_images)
        return fail(core, HEATVIT_ERROR_NO_ANSWER);
    return 0;
}

int heatvit_result(struct heatvit *core, uint32_t image, struct heatvit_result *result)
{
    const uint8_t *output, *top;
    const int error = answered(core);
    if (error)
        return error;
    if (image >= core->run_images)
        return fail_with(core, HEATVIT_ERROR_ARGUMENT, "image", image, "must be below",
                         core->run_images);
    output = core->memory.data + core->outputs + (size_t)image * core->output_stride;
    top = output + heatvit_field(core, HEATVIT_MODEL_OUTPUT_BYTES) - HEATVIT_OUTPUT_TOP_BYTES;
    result->logits = (const void *)output;
    result->classes = heatvit_field(core, HEATVIT_MODEL_CLASSES);
    result->top_class = word(top, 0);
    result->top_logit = (int32_t)word(top, 1);
    result->cycle = word(top, 2);
    result->tokens = word(top, 3);
    return 0;
}

/* Finds the place of an image in the last round. */
static int in_last_round(struct heatvit *core, uint32_t image, uint32_t selector, uint32_t *place)
{
    const uint32_t in_round = heatvit_field(core, HEATVIT_MODEL_IMAGES);
    const uint32_t selectors = heatvit_field(core, HEATVIT_MODEL_SELECTORS);
    const int error = answered(core);
    if (error)
        return error;
    if (selector >= selectors)
        return fail_with(core, HEATVIT_ERROR_ARGUMENT, "selector", selector, "must be below",
                         selectors);
    if (image >= core->run_images)
        return fail_with(core, HEATVIT_ERROR_ARGUMENT, "image", image, "must be below",
                         core->run_images);
    if (image + in_round < core->run_images)
        return fail_with(core, HEATVIT_ERROR_ARGUMENT, "image", image, AT_LEAST,
                         core->run_images - in_round);
    *place = image % in_round;
    return 0;
}

int heatvit_selection(struct heatvit *core, uint32_t image, uint32_t selector, uint32_t *tokens,
                      uint32_t *patches)
{
    uint32_t place, value;
    const int error = in_last_round(core, image, selector, &place);
    if (error)
        return error;
    value = get(core, HEATVIT_REG_SELECTOR_0 + 4u * (HEATVIT_SEGMENTS * selector + place));
    *tokens = (value & HEATVIT_SELECTOR_0_TOKENS_MASK) >> HEATVIT_SELECTOR_0_TOKENS_SHIFT;
    *patches = (value & HEATVIT_SELECTOR_0_PATCHES_MASK) >> HEATVIT_SELECTOR_0_PATCHES_SHIFT;
    return 0;
}

int heatvit_kept(struct heatvit *core, uint32_t image, uint32_t selector, uint8_t *kept)
{
    const uint32_t patches = heatvit_field(core, HEATVIT_MODEL_PATCHES);
    uint32_t place, row, patch, at = UINT32_MAX, value = 0;
    const int error = in_last_round(core, image, selector, &place);
    if (error)
        return error;
    row = heatvit_field(core, (enum heatvit_model_field)(HEATVIT_MODEL_FIRST_ROW0 + place)) +
          heatvit_field(core, HEATVIT_MODEL_SPECIAL);
    if ((image / heatvit_field(core, HEATVIT_MODEL_IMAGES)) % 2)
        row += heatvit_field(core, HEATVIT_MODEL_ROW_STEP);
    for (patch = 0; patch < patches; patch++, row++) {
        if (row / HEATVIT_DROPPED_ROWS != at) {
            at = row / HEATVIT_DROPPED_ROWS;
            value = get(core, HEATVIT_REG_DROPPED + 4u * at);
        }
        kept[patch] = (value >> HEATVIT_DROPPED_BITS * (row % HEATVIT_DROPPED_ROWS) &
                       ((1u << HEATVIT_DROPPED_BITS) - 1u)) > selector;
    }
    return 0;
}

void heatvit_read_counters(const struct heatvit *core, struct heatvit_counters *counters)
{
    unsigned int i;
    counters->cycles = get(core, HEATVIT_REG_CYCLES) |
                       (uint64_t)get(core, HEATVIT_REG_CYCLES_HIGH) << 32;
    for (i = 0; i < HEATVIT_STALLS; i++)
        counters->stalls[i] = get(core, HEATVIT_REG_STALL_BUSY + 4u * i);
    counters->bytes_read = get(core, HEATVIT_REG_BYTES_READ);
    counters->bytes_written = get(core, HEATVIT_REG_BYTES_WRITTEN);
    counters->images_done = get(core, HEATVIT_REG_IMAGES_DONE);
}

/* Compares a number of an answer with what it must be. */
static int compare(struct heatvit *core, const char *what, uint32_t found, uint32_t expected)
{
    if (found == expected)
        return 0;
    return fail_with(core, HEATVIT_ERROR_SELF_TEST, what, found, MUST_BE, expected);
}

int heatvit_self_test(struct heatvit *core, uint64_t microseconds)
{
    const uint8_t *expected;
    uint32_t image, i, images = heatvit_field(core, HEATVIT_MODEL_IMAGES);
    int error;
    if (!core->file)
        return fail(core, HEATVIT_ERROR_NO_MODEL);
    if (core->running)
        return fail(core, HEATVIT_ERROR_BUSY);
    for (image = 0; image < images; image++)
        memcpy(heatvit_frame(core, image),
               core->file + heatvit_field(core, HEATVIT_MODEL_SAMPLE_OFFSET),
               heatvit_field(core, HEATVIT_MODEL_FRAME_BYTES));
    error = heatvit_run(core, images, microseconds);
    expected = core->file + heatvit_field(core, HEATVIT_MODEL_EXPECTED_OFFSET);
    for (image = 0; !error && image < images; image++) {
        struct heatvit_result result;
        error = heatvit_result(core, image, &result);
        for (i = 0; !error && i < result.classes; i++)
            if ((uint32_t)result.logits[i] != word(expected, i))
                error = fail_with(core, HEATVIT_ERROR_SELF_TEST, "first wrong logit", i, NULL, 0);
        if (!error)
            error = compare(core, "top class", result.top_class, word(expected, result.classes));
        if (!error)
            error = compare(core, "tokens", result.tokens, word(expected, result.classes + 1));
    }
    return error;
}
