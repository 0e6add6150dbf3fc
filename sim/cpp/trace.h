// SPDX-License-Identifier: BSD-2-Clause
// Records the streams of the design: one file each, the bytes of all fields of each event.
#pragma once

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "pin.h"

class Trace {
public:
    explicit Trace(const std::vector<StreamPins>& streams) : streams_(streams) {}

    // Streams with times are only recorded if they are asked for.
    void open(const std::string& folder, bool timed) {
        close();
        for (const StreamPins& stream : streams_) {
            if (stream.timed && !timed) continue;
            const std::string path = folder + "/" + stream.name + ".bin";
            open_.push_back({&stream, {std::fopen(path.c_str(), "wb"), &std::fclose}, {}, {}});
            if (!open_.back().file) {
                close();
                throw Fault("cannot write " + path);
            }
        }
    }
    void close() { open_.clear(); }

    void sample(uint64_t cycle) {
        for (Recording& recording : open_) {
            const StreamPins& stream = *recording.stream;
            if (stream.valid.bytes ? !stream.valid : !recording.changed()) continue;
            if (stream.timed) recording.write(&cycle, sizeof cycle);
            for (const Pin& field : stream.fields) recording.write(field.bytes, field.size);
        }
    }

private:
    struct Recording {
        const StreamPins* stream;
        std::unique_ptr<std::FILE, int (*)(std::FILE*)> file;
        std::vector<uint8_t> last, now;  // all fields, of the last event and of this cycle

        bool changed() {
            now.clear();
            for (const Pin& field : stream->fields)
                now.insert(now.end(), field.bytes, field.bytes + field.size);
            if (now == last) return false;
            last.swap(now);
            return true;
        }
        void write(const void* bytes, size_t size) {
            if (std::fwrite(bytes, 1, size, file.get()) != size)
                throw Fault("cannot write the trace of " + stream->name);
        }
    };

    std::vector<StreamPins> streams_;
    std::vector<Recording> open_;
};
