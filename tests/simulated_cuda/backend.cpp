// CUDA without GPUs, for a torch that was built without CUDA: tensors of "cuda:N" live in host
// memory, and the CPU's kernels compute on them. What a GPU refuses is refused (tensors of two
// devices in one operation), and what costs it time is counted: host syncs, copies, contexts.
#include <malloc.h>

#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/native/TensorFactories.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/distributed/c10d/reducer_timer.hpp>
#include <torch/library.h>

namespace {

using at::Tensor;
using c10::Device;
using c10::DeviceIndex;
using c10::kCPU;
using c10::kCUDA;

// Devices -----------------------------------------------------------------------------------------

std::atomic<int> device_count{1};
thread_local DeviceIndex current = 0;
std::atomic<int> contexts{0};  // bit i: CUDA would have a context on device i by now

void set_current(DeviceIndex index) {
  TORCH_CHECK(index < device_count, "CUDA error: invalid device ordinal");
  if (index >= 0) current = index;
}

DeviceIndex exchange(DeviceIndex index) {
  auto before = current;
  set_current(index);
  return before;
}

void touch() { contexts |= 1 << current; }

// What the host asked of the devices since the count was started: name -> how often.
std::mutex tally_lock;
std::map<std::string, int64_t> tally;
std::atomic<bool> counting{false};

void count(const std::string& name) {
  if (!counting) return;
  std::lock_guard<std::mutex> hold(tally_lock);
  ++tally[name];
}

// There is one stream, on which everything is done at once.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kCUDA; }
  Device exchangeDevice(Device d) const override { return {kCUDA, exchange(d.index())}; }
  Device getDevice() const override { return {kCUDA, current}; }
  void setDevice(Device d) const override { set_current(d.index()); }
  void uncheckedSetDevice(Device d) const noexcept override {
    if (d.index() >= 0) current = d.index();
  }
  c10::Stream getStream(Device d) const override { return c10::Stream(c10::Stream::DEFAULT, d); }
  c10::Stream getDefaultStream(Device d) const override { return getStream(d); }
  c10::Stream getNewStream(Device d, int) const override { return getStream(d); }
  c10::Stream getStreamFromGlobalPool(Device d, bool) const override { return getStream(d); }
  c10::Stream exchangeStream(c10::Stream s) const override { return s; }
  DeviceIndex deviceCount() const noexcept override { return device_count; }
  void record(void** event, const c10::Stream&, const DeviceIndex,
              const c10::EventFlag) const override {
    if (!*event) *event = &tally;  // anything but null
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override { count("sync: stream"); }
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const DeviceIndex) const override { count("sync: device"); }
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override {}
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);

// Memory ------------------------------------------------------------------------------------------

std::atomic<int64_t> held{0}, peak{0};  // bytes, of all devices together

void* allocate(size_t bytes, const char* kind) {
  touch();
  void* data = nullptr;
  TORCH_CHECK(!bytes || !posix_memalign(&data, 64, bytes), kind, " is out of memory");
  return data;
}

void release(void* data) {
  held -= static_cast<int64_t>(malloc_usable_size(data));
  free(data);
}

struct DeviceMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = ::allocate(bytes, "the simulated GPU");
    held += static_cast<int64_t>(malloc_usable_size(data));
    for (int64_t now = held, most = peak; now > most && !peak.compare_exchange_weak(most, now);) {
    }
    return {data, data, &release, Device(kCUDA, current)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t n) const override { memcpy(to, from, n); }
} device_memory;
REGISTER_ALLOCATOR(kCUDA, &device_memory);

std::mutex pinned_lock;
std::map<const char*, size_t> pinned;  // begin -> bytes

bool is_pinned(const void* data) {
  std::lock_guard<std::mutex> hold(pinned_lock);
  auto address = static_cast<const char*>(data);
  auto after = pinned.upper_bound(address);
  if (after == pinned.begin()) return false;
  auto& [begin, bytes] = *std::prev(after);
  return address < begin + bytes;
}

void unpin(void* data) {
  std::lock_guard<std::mutex> hold(pinned_lock);
  pinned.erase(static_cast<const char*>(data));
  free(data);
}

struct PinnedMemory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    // cudaHostAlloc makes a context on the current device (pytorch issue 21081).
    void* data = ::allocate(bytes, "pinned memory");
    std::lock_guard<std::mutex> hold(pinned_lock);
    if (data) pinned[static_cast<const char*>(data)] = bytes;
    return {data, data, &unpin, Device(kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &unpin; }
  void copy_data(void* to, const void* from, size_t n) const override { memcpy(to, from, n); }
} pinned_memory;

}  // namespace

namespace at {
struct CUDAHooks : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return device_count; }
  int getNumGPUs() const override { return device_count; }
  DeviceIndex current_device() const override { return current; }
  DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(DeviceIndex index) const override { set_current(index); }
  DeviceIndex exchangeDevice(DeviceIndex index) const override { return exchange(index); }
  DeviceIndex maybeExchangeDevice(DeviceIndex index) const override { return exchange(index); }
  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
  Allocator* getPinnedMemoryAllocator() const override { return &pinned_memory; }
  Device getDeviceFromPtr(void*) const override { return Device(kCUDA, current); }
  void deviceSynchronize(DeviceIndex) const override { count("sync: device"); }
};
REGISTER_CUDA_HOOKS(CUDAHooks);
}  // namespace at

namespace c10d {  // DDP asks for a timer of its device
struct NoTimer : Timer {
  explicit NoTimer(c10::Device) {}
  std::optional<int64_t> measureDifference(Event, Event) override { return std::nullopt; }
};
C10_REGISTER_TYPED_CLASS(TimerRegistry, c10::kCUDA, NoTimer)
}  // namespace c10d

namespace {

// Tensors -----------------------------------------------------------------------------------------

bool on_device(const Tensor& t) { return t.defined() && t.is_cuda(); }

// A CPU tensor over the same memory, which it keeps alive.
Tensor as_cpu(const Tensor& t) {
  auto keep = new c10::Storage(t.storage());
  auto drop = [](void* storage) { delete static_cast<c10::Storage*>(storage); };
  c10::Storage storage(c10::Storage::use_byte_size_t(), keep->nbytes(),
                       c10::DataPtr(keep->mutable_data(), keep, drop, Device(kCPU)),
                       c10::GetAllocator(kCPU), /*resizable=*/true);
  auto alias = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), t.dtype());
  alias.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
  if (t.is_conj()) alias._set_conj(true);
  if (t.is_neg()) alias._set_neg(true);
  return alias;
}

const c10::DispatchKeySet CUDA_KEY(c10::DispatchKey::CUDA);

Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride,
                     std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                     std::optional<Device> device, std::optional<bool> pin) {
  TORCH_CHECK(!pin.value_or(false), "only CPU tensors can be pinned");
  c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_strided_generic(size, stride, &device_memory, CUDA_KEY,
                                           c10::dtype_or_default(dtype));
}

Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<Device> device, std::optional<bool> pin,
             std::optional<at::MemoryFormat> format) {
  TORCH_CHECK(!pin.value_or(false), "only CPU tensors can be pinned");
  c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_generic(size, &device_memory, CUDA_KEY, c10::dtype_or_default(dtype),
                                   format);
}

Tensor to_device(const Tensor& cpu, Device device) {
  auto copy = empty_strided(cpu.sizes(), cpu.strides(), cpu.scalar_type(), {}, device, {});
  at::NoGradGuard no_grad;
  if (cpu.numel()) as_cpu(copy).copy_(cpu.resolve_conj().resolve_neg());
  return copy;
}

Tensor& copy_(Tensor& self, const Tensor& source, bool non_blocking) {
  bool to = on_device(self), from = on_device(source);
  bool scalar = source.dim() == 0 && source.numel() == 1;  // a kernel's argument
  if (to && !from && !scalar) {
    bool waits = !non_blocking || !is_pinned(source.const_data_ptr());
    count(waits ? "sync: copy of pageable memory to the device" : "copy: pinned to device");
  } else if (!to && from) {
    count("sync: copy to the host");
  } else if (to && from && self.device() != source.device()) {
    count("copy: device to device");
  }
  at::AutoDispatchBelowAutograd below;
  (to ? as_cpu(self) : self).copy_(from ? as_cpu(source) : source);
  return self;
}

at::Scalar item(const Tensor& self) {
  count("sync: item");
  return at::_local_scalar_dense(as_cpu(self));
}

const Tensor& resize_(const Tensor& self, at::IntArrayRef size,
                      std::optional<at::MemoryFormat> format) {
  c10::OptionalDeviceGuard guard(self.device());
  auto* impl = self.unsafeGetTensorImpl();
  at::native::resize_impl_cpu_(impl, size, std::nullopt);
  if (format) impl->empty_tensor_restride(*format);
  return self;
}

Tensor& set_storage(Tensor& self, at::Storage source, int64_t offset, at::IntArrayRef size,
                    at::IntArrayRef stride) {
  return at::native::set_storage_cpu_(self, source, offset, size, stride);
}

Tensor& set_whole_storage(Tensor& self, at::Storage source) {
  auto length = static_cast<int64_t>(source.nbytes() / self.itemsize());
  return at::native::set_storage_cpu_(self, source, 0, {length}, {1});
}

// All other operators: the CPU's kernels on aliases -----------------------------------------------

// Sizes of their outputs are known once the device has counted them: the host waits.
const std::set<std::string> SIZED_BY_DATA{
    "aten::nonzero",  "aten::masked_select",     "aten::_unique2",       "aten::unique_dim",
    "aten::bincount", "aten::unique_consecutive", "aten::repeat_interleave", "aten::equal"};

// CUDA indexes a tensor by indices of the host, too.
const std::set<std::string> INDEXED_FROM_HOST{"aten::index", "aten::index_put_",
                                              "aten::_index_put_impl_"};

// CUDA's fused optimizers refuse lists whose tensors have other sizes, strides or types.
void check_fused(const c10::FunctionSchema& schema, const torch::jit::Stack& stack, size_t first) {
  std::vector<std::vector<Tensor>> lists;
  for (size_t i = 0; i < schema.arguments().size(); ++i) {
    bool steps = schema.arguments()[i].name() == "state_steps";
    if (steps || !stack[first + i].isTensorList()) continue;
    auto list = stack[first + i].toTensorVector();
    if (!list.empty()) lists.push_back(std::move(list));
  }
  for (const auto& list : lists)
    for (size_t j = 0; j < list.size(); ++j) {
      const auto &a = lists[0][j], &b = list[j];
      bool alike = a.sizes() == b.sizes() && a.dtype() == b.dtype() && a.device() == b.device();
      for (int64_t d = 0; alike && d < a.dim(); ++d)
        alike = a.size(d) == 1 || a.stride(d) == b.stride(d);
      TORCH_CHECK(alike, schema.name(), ": parameters, gradients and moments must have the same ",
                  "dtype, device and layout; these are ", a.sizes(), " ", a.strides(), " and ",
                  b.strides());
    }
}

// The tensors of one call: those of the device are replaced by aliases, others are refused.
struct Call {
  const std::string& name;
  std::optional<Device> device;
  std::vector<std::pair<Tensor, Tensor>> aliases;  // (of the device, of the CPU)

  Tensor argument(const Tensor& t) {
    if (!on_device(t)) {
      bool allowed = !t.defined() || t.dim() == 0 || INDEXED_FROM_HOST.count(name);
      TORCH_CHECK(allowed, message(t.device()));
      return t;
    }
    if (!device) device = t.device();
    TORCH_CHECK(*device == t.device(), message(t.device()));
    for (auto& [original, alias] : aliases)
      if (original.is_same(t)) return alias;
    aliases.emplace_back(t, as_cpu(t));
    return aliases.back().second;
  }

  Tensor result(const Tensor& t, Device where) {
    if (!t.defined() || !where.is_cuda()) return t;
    for (auto& [original, alias] : aliases)
      if (alias.is_same(t)) return original;
    for (auto& [original, alias] : aliases)
      TORCH_CHECK(!t.numel() || !alias.numel() || t.storage().data() != alias.storage().data(),
                  name, " gives a view; backend.cpp must register it");
    return to_device(t, where);
  }

  void grow_outputs() {
    for (auto& [original, alias] : aliases) {
      if (original.sizes() == alias.sizes() && original.strides() == alias.strides()) continue;
      c10::OptionalDeviceGuard guard(original.device());
      at::native::resize_impl_cpu_(original.unsafeGetTensorImpl(), alias.sizes(), alias.strides());
      if (alias.numel()) as_cpu(original).copy_(alias);
    }
  }

  std::string message(Device other) const {
    auto first = device ? device->str() : "cuda";
    return "Expected all tensors to be on the same device, but found at least two devices, " +
           first + " and " + other.str() + "! (" + name + ")";
  }
};

// Applies `change` to every tensor of a value.
template <typename Change>
void map_tensors(c10::IValue& value, Change change) {
  if (value.isTensor()) {
    value = change(value.toTensor());
  } else if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& t : value.toTensorVector()) list.push_back(change(t));
    value = std::move(list);
  } else if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> list;
    auto given = value.toOptionalTensorList();
    for (size_t i = 0; i < given.size(); ++i) {
      std::optional<Tensor> t = given.get(i);
      list.push_back(t && t->defined() ? std::optional<Tensor>(change(*t)) : t);
    }
    value = std::move(list);
  }
}

void run_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto first = stack->size() - schema.arguments().size();
  bool waits = SIZED_BY_DATA.count(schema.name());
  count((waits ? "sync: " : "") + schema.name());
  if (schema.name().rfind("aten::_fused_", 0) == 0) check_fused(schema, *stack, first);

  Call call{schema.name()};
  std::optional<Device> asked;
  for (size_t i = first; i < stack->size(); ++i) {
    auto& value = (*stack)[i];
    map_tensors(value, [&](const Tensor& t) { return call.argument(t); });
    if (value.isDevice()) {
      asked = value.toDevice();
      if (asked->is_cuda()) value = Device(kCPU);
    }
  }
  {
    at::AutoDispatchBelowAutograd below;
    op.callBoxed(stack);
  }
  call.grow_outputs();
  auto where = asked ? *asked : call.device.value_or(Device(kCUDA, current));
  if (where.is_cuda() && !where.has_index()) where = Device(kCUDA, current);
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); ++i)
    map_tensors((*stack)[i], [&](const Tensor& t) { return call.result(t, where); });
}

TORCH_LIBRARY_IMPL(_, CUDA, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("copy_", copy_);
  m.impl("_local_scalar_dense", item);
  m.impl("resize_", resize_);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", at::native::view);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("unfold", at::native::unfold);
  m.impl("set_.source_Storage_storage_offset", set_storage);
  m.impl("set_.source_Storage", set_whole_storage);
  m.impl("set_.source_Tensor", at::native::set_tensor_);
  // torch composes these of other operators, or chooses a kernel by the device itself.
  for (auto name : {"convolution", "convolution_backward", "_fused_adam_", "_fused_adam_.tensor_lr",
                    "_fused_adamw_", "_fused_sgd_", "_amp_foreach_non_finite_check_and_unscale_",
                    "_amp_update_scale_"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}

}  // namespace

// For gpus.py -------------------------------------------------------------------------------------

extern "C" {
void sim_set_device_count(int n) { device_count = n; }
int sim_device_count() { return device_count; }
int sim_current() { return current; }
int sim_exchange(int index) {
  auto before = current;
  if (index >= 0) current = static_cast<DeviceIndex>(index);
  return before;
}
int sim_contexts() { return contexts; }
int64_t sim_peak_memory() { return peak; }
void sim_reset_peak_memory() { peak = held.load(); }
void sim_start_counting() {
  std::lock_guard<std::mutex> hold(tally_lock);
  tally.clear();
  counting = true;
}
const char* sim_stop_counting() {
  static std::string lines;
  counting = false;
  std::lock_guard<std::mutex> hold(tally_lock);
  lines.clear();
  for (auto& [name, times] : tally) lines += name + "\t" + std::to_string(times) + "\n";
  return lines.c_str();
}
}
