#include "memory.h"

#include <cstring>
#include <sys/mman.h>

namespace emu {

SharedMemory *shared;
Buffers buffers;

namespace {

// Room on either side of a range in which a stray access is still recognised.
size_t const GUARD = 1 << 20;
// More than one unit.
uint16_t const SEVERAL = 0xffff;

char *reserve(size_t bytes) {
    void *range =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) fault("the host has no memory for the emulated device");
    return static_cast<char *>(range);
}

bool within(void const *address, char const *begin, size_t bytes) {
    return size_t(static_cast<char const *>(address) - begin) < bytes;
}

std::string place(size_t at, char const *how) {
    return std::string(how) + " at shared byte " + std::to_string(int64_t(at));
}

} // namespace

SharedMemory::SharedMemory(size_t bytes)
    : begin_(reserve(bytes + 2 * GUARD) + GUARD), bytes_(bytes), shadow_(bytes) {}

bool SharedMemory::near(void const *address) const {
    return within(address, begin_ - GUARD, bytes_ + 2 * GUARD);
}

void SharedMemory::clear() { std::memset(shadow_.data(), 0, shadow_.size() * sizeof(Byte)); }

void SharedMemory::check(size_t at, size_t bytes, char const *how) const {
    if (at > bytes_ || bytes > bytes_ - at) {
        fault(place(at, how) + " is out of bounds: the block has " + std::to_string(bytes_) + " bytes");
    }
}

void SharedMemory::read(size_t at, size_t bytes, char const *how) {
    check(at, bytes, how);
    for (Byte *byte = &shadow_[at]; byte < &shadow_[at] + bytes; byte++) {
        if (byte->in_flight) fault(place(at, how) + " reads a copy that has not arrived");
        if (!byte->written) fault(place(at, how) + " reads what was never written");
        if (byte->write_epoch == epoch && byte->writer != unit) {
            fault(place(at, how) + " reads what unit " + std::to_string(byte->writer) +
                  " wrote, without a barrier between");
        }
        bool others = byte->read_epoch == epoch && byte->reader != unit;
        byte->reader = others ? SEVERAL : uint16_t(unit);
        byte->read_epoch = epoch;
    }
}

void SharedMemory::write(size_t at, size_t bytes, char const *how) {
    check(at, bytes, how);
    for (Byte *byte = &shadow_[at]; byte < &shadow_[at] + bytes; byte++) {
        if (byte->in_flight) fault(place(at, how) + " overwrites a copy that has not arrived");
        if (byte->write_epoch == epoch && byte->writer != unit) {
            fault(place(at, how) + " overwrites what unit " + std::to_string(byte->writer) +
                  " wrote, without a barrier between");
        }
        if (byte->read_epoch == epoch && byte->reader != unit) {
            fault(place(at, how) + " overwrites what another unit read, without a barrier between");
        }
        byte->writer = uint16_t(unit);
        byte->write_epoch = epoch;
        byte->written = true;
    }
}

void SharedMemory::start_copy(size_t at, size_t bytes) {
    write(at, bytes, "cp.async");
    for (size_t i = at; i < at + bytes; i++) shadow_[i].in_flight = true;
}

void SharedMemory::finish_copy(size_t at, char const *from, size_t from_bytes, size_t bytes) {
    for (size_t i = at; i < at + bytes; i++) {
        shadow_[i].in_flight = false;
        shadow_[i].write_epoch = epoch;
    }
    std::memcpy(begin_ + at, from, from_bytes);
    std::memset(begin_ + at + from_bytes, 0, bytes - from_bytes);
}

void Buffers::allocate(std::vector<uint64_t> const &sizes, std::vector<bool> const &writable) {
    bytes_ = GUARD;
    for (uint64_t size : sizes) bytes_ += (size / 256 + 1) * 256 + GUARD;
    begin_ = reserve(bytes_);
    char *next = begin_ + GUARD;
    for (size_t i = 0; i < sizes.size(); i++) {
        buffers_.push_back({next, sizes[i], writable[i]});
        next += (sizes[i] / 256 + 1) * 256 + GUARD;
    }
}

bool Buffers::near(void const *address) const { return within(address, begin_, bytes_); }

void Buffers::check(void const *address, size_t bytes, bool write) const {
    for (size_t i = 0; i < buffers_.size(); i++) {
        Buffer const &buffer = buffers_[i];
        if (!within(address, buffer.begin, buffer.bytes)) continue;
        size_t at = size_t(static_cast<char const *>(address) - buffer.begin);
        if (bytes > buffer.bytes - at) break;
        if (write && !buffer.writable) fault("a write to buffer " + std::to_string(i) + ", an input");
        return;
    }
    fault(std::string(write ? "a write" : "a read") + " of " + std::to_string(bytes) +
          " bytes outside of every buffer");
}

} // namespace emu
