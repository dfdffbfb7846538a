// Shared memory with a shadow that knows who touched each byte since the last barrier, and buffers with
// bounds. Faults end the program.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace emu {

// Prints what went wrong and where, and ends with status 3.
[[noreturn]] void fault(std::string const &what);

// The unit that runs, and the number of barriers its block has passed, from 1.
extern unsigned unit;
extern uint32_t epoch;

class SharedMemory {
  public:
    explicit SharedMemory(size_t bytes);
    char *begin() const { return begin_; }
    // Whether an address lies in shared memory or in the guarded zone around it.
    bool near(void const *address) const;
    // Forgets contents: a new block finds nothing.
    void clear();
    void read(size_t at, size_t bytes, char const *how);
    void write(size_t at, size_t bytes, char const *how);
    // A copy to these bytes is under way: nobody may touch them.
    void start_copy(size_t at, size_t bytes);
    void finish_copy(size_t at, char const *from, size_t from_bytes, size_t bytes);

  private:
    struct Byte {
        uint32_t write_epoch, read_epoch;
        uint16_t writer, reader;
        bool written, in_flight;
    };
    void check(size_t at, size_t bytes, char const *how) const;

    char *begin_;
    size_t bytes_;
    std::vector<Byte> shadow_;
};

class Buffers {
  public:
    // Lays out buffers of these sizes, far apart.
    void allocate(std::vector<uint64_t> const &sizes, std::vector<bool> const &writable);
    char *operator[](size_t at) const { return buffers_[at].begin; }
    // Whether an address lies in the range that holds all buffers.
    bool near(void const *address) const;
    void check(void const *address, size_t bytes, bool write) const;

  private:
    struct Buffer {
        char *begin;
        size_t bytes;
        bool writable;
    };
    char *begin_ = nullptr;
    size_t bytes_ = 0;
    std::vector<Buffer> buffers_;
};

extern SharedMemory *shared;
extern Buffers buffers;

} // namespace emu
