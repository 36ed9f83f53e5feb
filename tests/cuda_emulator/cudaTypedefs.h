#pragma once

#include "cuda.h"
#include "cuda_runtime.h"

using PFN_cuMemCreate_v10020 = CUresult (*)(CUmemGenericAllocationHandle*, size_t, const CUmemAllocationProp*,
                                            unsigned long long);
using PFN_cuMemRelease_v10020 = CUresult (*)(CUmemGenericAllocationHandle);
using PFN_cuMemAddressReserve_v10020 = CUresult (*)(CUdeviceptr*, size_t, size_t, CUdeviceptr, unsigned long long);
using PFN_cuMemMap_v10020 = CUresult (*)(CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long);
using PFN_cuMemUnmap_v10020 = CUresult (*)(CUdeviceptr, size_t);
using PFN_cuMemSetAccess_v10020 = CUresult (*)(CUdeviceptr, size_t, const CUmemAccessDesc*, size_t);

enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess, cudaDriverEntryPointSymbolNotFound };
enum { cudaEnableDefault };
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned version,
                                             unsigned long long flags, cudaDriverEntryPointQueryResult* result);
