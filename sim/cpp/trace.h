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

    void open(const std::string& folder) {
        close();
        for (const StreamPins& stream : streams_) {
            const std::string path = folder + "/" + stream.name + ".bin";
            files_.emplace_back(std::fopen(path.c_str(), "wb"), &std::fclose);
            if (!files_.back()) {
                files_.clear();
                throw Fault("cannot write " + path);
            }
        }
    }
    void close() { files_.clear(); }

    void sample() {
        for (size_t i = 0; i < files_.size(); i++) {
            if (!streams_[i].valid) continue;
            for (const Pin& field : streams_[i].fields)
                if (std::fwrite(field.bytes, 1, field.size, files_[i].get()) != field.size)
                    throw Fault("cannot write the trace of " + streams_[i].name);
        }
    }

private:
    std::vector<StreamPins> streams_;
    std::vector<std::unique_ptr<std::FILE, int (*)(std::FILE*)>> files_;
};
